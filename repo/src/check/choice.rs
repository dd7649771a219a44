//! Which packs are read: those that were read last, or written, longest ago.

use super::packs::Used;
use super::{NotRead, NotReadReason, ReadData, Run};
use crate::storage::keys;
use crate::{ErrorKind, Result, Timestamp, clock};

/// The packs to read, and what is left out. One whose last reading found damage is read by each check.
pub(super) fn choose(run: &Run<'_>, packs: Vec<Used>, read: ReadData) -> Result<(Vec<Used>, Vec<NotRead>)> {
    let mut not_read = Vec::new();
    // Of all, not of what is due: so a share of a 30th a day has been everywhere after 30 days.
    let total: u64 = packs.iter().map(|pack| pack.bytes).sum();
    let (mut chosen, mut packs): (Vec<_>, Vec<_>) =
        packs.into_iter().partition(|pack| pack.reading.is_some_and(|reading| reading.damaged));
    if let Some(age) = read.max_age {
        let since = run.began.0.saturating_sub(i64::try_from(age.as_nanos()).unwrap_or(i64::MAX));
        let last = run.each(&packs, |pack| last(run, pack))?;
        let (young, old): (Vec<_>, Vec<_>) = packs.into_iter().zip(last).partition(|(_, at)| at.0 >= since);
        let young: Vec<Used> = young.into_iter().map(|(pack, _)| pack).collect();
        not_read.extend(left_out(&young, NotReadReason::Younger));
        packs = old.into_iter().map(|(pack, _)| pack).collect();
    }
    if read.share < 1.0 {
        // What was never read comes first, whatever the clocks say; else packs that are there come to their turn only as
        // long as less is written than read. Where times do not decide it is another sample each time: whoever cannot note
        // what he read comes around too.
        let seed: [u8; 32] = clock::random(run.repository.rng())?;
        packs.sort_by_cached_key(|pack| {
            (pack.reading.map(|reading| reading.at), *blake3::keyed_hash(&seed, &pack.id.to_bytes()).as_bytes())
        });
        let wanted = (total as f64 * read.share.max(0.0)).ceil() as u64;
        let mut sum = 0;
        let enough = |pack: &Used| {
            let enough = sum >= wanted;
            sum += pack.bytes;
            enough
        };
        let count = packs.iter().position(enough).unwrap_or(packs.len());
        // Who asks for a share of nothing wants to know of earlier damage alone.
        let reason = if read.share > 0.0 { NotReadReason::Sample } else { NotReadReason::NotAsked };
        not_read.extend(left_out(&packs.split_off(count), reason));
    }
    chosen.append(&mut packs);
    chosen.sort_unstable_by_key(|pack| pack.id);
    Ok((chosen, not_read))
}

/// When a pack was read or written last, whichever came later.
fn last(run: &Run<'_>, pack: &Used) -> Result<Timestamp> {
    let written = match pack.written {
        Some(written) => written,
        // One that is gone is old: it is missed when it is read.
        None => match run.storage().head(&keys::pack(&pack.id)) {
            Err(e) if e.kind() == ErrorKind::NotFound => Timestamp(i64::MIN),
            found => found?.modified,
        },
    };
    Ok(pack.reading.map_or(written, |reading| written.max(reading.at)))
}

/// What snapshots refer to of these packs; those of which that is nothing are no loss.
pub(super) fn left_out(packs: &[Used], reason: NotReadReason) -> Option<NotRead> {
    let used = packs.iter().filter(|pack| pack.bytes > 0);
    let (packs, bytes) = used.fold((0, 0), |(packs, bytes), pack| (packs + 1, bytes + pack.bytes));
    (packs > 0).then_some(NotRead { reason, packs, bytes })
}
