use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A filesystem that does as its paths say.
struct Odd(Window);

impl Filesystem for Odd {
    fn stat(&mut self, path: &[Vec<u8>]) -> Found<Node> {
        match path[0].as_slice() {
            b"panics" => panic!("of the test"),
            b"spins" => loop {
                std::thread::sleep(Duration::from_millis(1));
            },
            b"rereads" => loop {
                self.0.take(0, 64)?;
            },
            b"missing" => Err(Fault::None),
            _ => Err(Fault::broken("as wanted")),
        }
    }

    fn list(&mut self, _: &[Vec<u8>], _: u64, _: &mut dyn FnMut(Node) -> Found<()>) -> Found<()> {
        Ok(())
    }

    fn read(&mut self, _: &[Vec<u8>], bytes: Range<u64>, take: &mut dyn FnMut(Vec<u8>) -> Found<()>) -> Found<()> {
        (bytes.start..bytes.end).try_for_each(|n| take(vec![n as u8]))
    }

    fn most_folders(&self) -> u64 {
        7
    }
}

fn odd(opened: &Arc<AtomicUsize>, patience: Duration) -> Served {
    let opened = opened.clone();
    let open = move |window| -> Found<Box<dyn Filesystem>> {
        opened.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(Odd(window)))
    };
    Served::with(Window::whole(Arc::new(vec![0; 64])), Arc::new(open), patience)
}

fn said(found: Found<Node>) -> String {
    match found {
        Err(Fault::Broken(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_panic_is_an_error_of_its_path_alone() {
    let opened = Arc::default();
    let mut served = odd(&opened, PATIENCE);
    assert!(matches!(served.stat(&[b"missing".to_vec()]), Err(Fault::None)));
    assert_eq!(served.most_folders(), 7);
    let why = said(served.stat(&[b"panics".to_vec()]));
    assert!(why.contains("gave up (of the test)"), "{why}");
    assert!(matches!(served.stat(&[b"missing".to_vec()]), Err(Fault::None)), "another thread answers");
    assert_eq!(opened.load(Ordering::Relaxed), 2);
}

#[test]
fn who_comes_to_no_end_is_given_up() {
    let opened = Arc::default();
    let mut served = odd(&opened, Duration::from_millis(300));
    for path in ["spins", "rereads"] {
        let start = Instant::now();
        served.patience = Duration::from_millis(300);
        let why = said(served.stat(&[path.as_bytes().to_vec()]));
        assert!(why.contains("came to no end"), "{path}: {why}");
        assert!(start.elapsed() < Duration::from_secs(60), "{path}");
        served.patience = PATIENCE;
        assert!(matches!(served.stat(&[b"missing".to_vec()]), Err(Fault::None)), "{path}: another thread answers");
    }
}

#[test]
fn who_takes_no_more_ends_it_and_the_next_request_is_answered() {
    let mut served = odd(&Arc::default(), PATIENCE);
    let mut taken = 0;
    let ended = served.read(&[], 0..1_000_000, &mut |_| {
        taken += 1;
        if taken == 10 { Err(Fault::None) } else { Ok(()) }
    });
    assert!(matches!(ended, Err(Fault::None)) && taken == 10);
    assert!(matches!(served.stat(&[b"missing".to_vec()]), Err(Fault::None)));
}

#[test]
fn an_error_of_the_disk_is_what_is_said() {
    #[derive(Debug)]
    struct Bad;
    impl super::super::bytes::Bytes for Bad {
        fn size(&self) -> u64 {
            1 << 20
        }
        fn read(&self, _: u64, _: &mut [u8]) -> wherry_repo::Result<()> {
            Err(Error::corrupt("a chunk is lost"))
        }
    }
    for content in [Content::Ext("ext4"), Content::Fat] {
        let mut served = Served::new(content, Window::whole(Arc::new(Bad))).unwrap();
        let Err(Fault::Disk(error)) = served.stat(&[]) else { panic!("{content:?}") };
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Corrupt, "a chunk is lost"));
    }
}
