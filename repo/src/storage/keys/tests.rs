use super::*;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

#[test]
fn keys_are_parsed_as_they_are_made() {
    let id = SessionId::new([0xab; 16]);
    let volume = VolumeId::new([0xcd; 16]);
    for n in [0, 7, 99_999_999, 100_000_000, u32::MAX] {
        assert_eq!(parse_config(&config(n)), Some(n));
        assert_eq!(parse_epoch(&epoch(n)), Some(n));
        assert_eq!(parse_segment(&segment(&id, n)), Some((id, n)));
        assert_eq!(parse_session(&seen(&id, n)), Some((id, format!("seen-{n:08}").as_str())));
        for last in [false, true] {
            assert_eq!(parse_forget(&forget(&id, n, last)), Some((id, n, last)));
            assert_eq!(parse_pin(&pin(&id, n, last)), Some((id, n, last)));
        }
        assert_eq!(parse_readings(&readings(&id, n)), Some((id, n)));
        assert_eq!(parse_generation(&generation(n)), Some((n, false)));
        assert_eq!(parse_generation(&sealed(n)), Some((n, true)));
    }
    assert_eq!(parse_session(&session(&id, "open")), Some((id, "open")));
    assert_eq!(parse_session(&session(&id, "beat")), Some((id, "beat")));
    assert_eq!(parse_snap(&snap(&volume, &id)), Some((volume, id)));
    assert_eq!(parse_lead(&lead(&id)), Some(id));
    assert_eq!(parse_states(&states(&id)), Some(id));
    assert_eq!(parse_lead(&key("gc/lead/0")), None);
}

/// Whoever wrote it, it is not ours: the number alone would lead to another object, or to none.
#[test]
fn a_number_written_in_another_way_is_no_key_of_ours() {
    let sid = "ab".repeat(16);
    for text in ["config/7", "config/0000007", "config/000000007", "config/00000007/a", "config/latest"] {
        assert_eq!(parse_config(&key(text)), None, "{text}");
    }
    for k in ["0", "0000000", "000000001", "a"] {
        for part in ["asked", "settled"] {
            assert_eq!(parse_forget(&key(&format!("forget/{sid}/{k}-{part}"))), None, "{k}-{part}");
        }
        for part in ["pinned", "unpinned"] {
            assert_eq!(parse_pin(&key(&format!("pin/{sid}/{k}-{part}"))), None, "{k}-{part}");
        }
        assert_eq!(parse_generation(&key(&format!("gc/gen/{k}"))), None, "{k}");
        assert_eq!(parse_generation(&key(&format!("gc/gen/{k}-sealed"))), None, "{k}");
        assert_eq!(parse_session(&key(&format!("sess/{sid}/seen-{k}"))), None, "{k}");
        assert_eq!(parse_segment(&key(&format!("idx/{sid}-{k}"))), None, "{k}");
        assert_eq!(parse_readings(&key(&format!("checked/packs/{sid}-{k}"))), None, "{k}");
    }
    for part in ["asked", "settled", "", "pinned-1"] {
        assert_eq!(parse_pin(&key(&format!("pin/{sid}/00000000-{part}"))), None, "{part}");
    }
    for part in ["left", "open/a", "beat-1", "seen-"] {
        assert_eq!(parse_session(&key(&format!("sess/{sid}/{part}"))), None, "{part}");
    }
}
