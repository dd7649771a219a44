use super::*;

#[test]
fn sizes_are_powers_of_1024() {
    for (text, bytes) in
        [("0", 0), ("512", 512), ("256K", 256 << 10), ("64m", 64 << 20), ("1G", 1 << 30), ("15T", 15 << 40)]
    {
        assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
    }
    for wrong in ["", "K", "1.5G", "-1", "1X", "1GB", "16777216T", " 1", "0x10", "+-1"] {
        assert!(wrong.parse::<Size>().is_err(), "{wrong:?} was taken for a size");
    }
    for size in [0, 1, 1023, 1024, 1536, 256 << 20, (1 << 40) + 1, u64::MAX] {
        assert_eq!(Size(size).to_string().parse(), Ok(Size(size)));
    }
}

#[test]
fn times_have_a_unit() {
    for (text, seconds) in
        [("30s", 30), ("5m", 300), ("2h", 7200), ("7d", 604_800), ("1w", 604_800), ("0s", 0), ("0", 0)]
    {
        assert_eq!(text.parse(), Ok(Span(Duration::from_secs(seconds))), "{text}");
    }
    for wrong in ["", "7", "d", "1.5h", "-1s", "1y", "7 d", "99999999999999999999d", "73001d", "1ä"] {
        assert!(wrong.parse::<Span>().is_err(), "{wrong:?} was taken for a time");
    }
    assert_eq!(Span(Duration::from_secs(604_800)).to_string(), "7d");
    assert_eq!(Span(Duration::from_secs(90)).to_string(), "90s");
}

#[test]
fn shares_are_within_a_whole() {
    assert_eq!("10%".parse(), Ok(Percent(10.0)));
    assert_eq!("0.5%".parse(), Ok(Percent(0.5)));
    for wrong in ["10", "0%", "101%", "%", "NaN%", "-1%"] {
        assert!(wrong.parse::<Percent>().is_err(), "{wrong:?} was taken for a share");
    }
}

#[test]
fn compressions() {
    assert_eq!("lz4".parse(), Ok(Compression::Lz4));
    assert_eq!("none".parse(), Ok(Compression::None));
    assert_eq!("zstd".parse(), Ok(Compression::Zstd(3)));
    assert_eq!("zstd:19".parse(), Ok(Compression::Zstd(19)));
    for wrong in ["", "gzip", "zstd:", "zstd:0", "zstd:20", "lz4:1", "LZ4"] {
        assert!(wrong.parse::<Compression>().is_err(), "{wrong:?} was taken for a compression");
    }
}

#[test]
fn volume_names_are_folders_and_words() {
    for name in ["vm1", "host.sda", "Müller's disk", "a b", "...", "-", &"x".repeat(200)] {
        assert_eq!(name.parse::<VolumeName>().unwrap().as_str(), name);
    }
    for wrong in ["", ".", "..", "a/b", "a:b", "a\nb", "a\u{7f}", "a\u{85}", &"x".repeat(201), &"é".repeat(101)] {
        assert!(wrong.parse::<VolumeName>().is_err(), "{wrong:?} was taken for a volume name");
    }
}

#[test]
fn tags_are_pairs() {
    assert_eq!("a=b=c".parse(), Ok(Tag { key: "a".into(), value: "b=c".into() }));
    assert_eq!("a=".parse(), Ok(Tag { key: "a".into(), value: String::new() }));
    for wrong in ["", "a", "=b", "a=\n"] {
        assert!(wrong.parse::<Tag>().is_err(), "{wrong:?} was taken for a tag");
    }
}
