use super::*;
use std::sync::mpsc;

const LEN: usize = 64 << 10;

fn id(n: u8) -> ShortId {
    ShortId::new([n; 16])
}

fn mine(cache: &ChunkCache, n: u8) -> Claim {
    match cache.find(id(n)) {
        Found::Mine(claim) => claim,
        other => panic!("chunk {n} is not there: {other:?}"),
    }
}

#[test]
fn buffers_stay_within_the_bound_and_come_back() {
    let cache = ChunkCache::new(3 * LEN as u64);
    let held: Vec<_> = (0..3).map(|_| cache.buffer(LEN)).collect();
    let (tell, told) = mpsc::channel();
    let other = cache.clone();
    let waiter = std::thread::spawn(move || {
        tell.send(()).unwrap();
        let buffer = other.buffer(LEN);
        tell.send(()).unwrap();
        drop(buffer);
    });
    told.recv().unwrap();
    assert_eq!(cache.allocated(), 3 * LEN as u64);
    drop(held);
    told.recv().unwrap();
    waiter.join().unwrap();
    assert_eq!(cache.allocated(), 3 * LEN as u64, "they are kept for the next ones");
}

#[test]
fn buffers_of_another_length_take_the_place_of_free_ones() {
    let cache = ChunkCache::new(4 * LEN as u64);
    drop((0..4).map(|_| cache.buffer(LEN)).collect::<Vec<_>>());
    let large = cache.buffer(3 * LEN);
    assert_eq!(large.as_ref().len(), 3 * LEN);
    assert!(cache.allocated() <= 4 * LEN as u64);
    drop(large);
    assert_eq!(cache.buffer(LEN - 5).as_ref().len(), LEN - 5, "a shorter chunk takes a longer buffer");
    assert_eq!(cache.buffer(9 * LEN).as_ref().len(), 9 * LEN, "one that is larger than all is served alone");
}

#[test]
fn a_failed_fetch_reaches_all_who_wait_and_is_not_remembered() {
    let cache = ChunkCache::new(LEN as u64);
    let claim = mine(&cache, 1);
    let Found::Pending(flight) = cache.find(id(1)) else { panic!("it is on its way") };
    let failed = Failed { kind: ErrorKind::Corrupt, by: 5 };
    claim.finish(Err(failed));
    assert!(matches!(flight.wait(), Landed::Failed(told) if told == failed));
    mine(&cache, 1);
}

#[test]
fn a_claim_that_is_given_up_lets_the_next_one_try() {
    let cache = ChunkCache::new(LEN as u64);
    let claim = mine(&cache, 1);
    let Found::Pending(flight) = cache.find(id(1)) else { panic!("it is on its way") };
    drop(claim);
    assert!(matches!(flight.wait(), Landed::Abandoned));
    mine(&cache, 1);
}
