//! What was stored is read back, opened and noted before it counts.

use crate::format::checked::{ReadTogether, Readings};
use crate::id::{PackId, PackKind, SessionId};
use crate::pack::read_index;
use crate::storage::keys;
use crate::{Error, ErrorKind, Repository, Result, Timestamp, clock};

/// Opens all that is in these packs, and notes which were intact (V8). Gives their number. `stored`: whether they could be stored at
/// all; what was until then is looked at all the same.
pub(super) fn read_back(
    repository: &Repository,
    began: Timestamp,
    packs: &[PackId],
    stored: Result<()>,
    watch: super::HealWatch<'_>,
) -> Result<u64> {
    // What was looked for and not found may be in them.
    repository.elsewhere().forget();
    let (mut intact, mut damaged, mut failed, mut gone, mut ended) = (Vec::new(), Vec::new(), None, 0, Ok(()));
    for pack in packs {
        // What was not read is not noted, and not said to be healed; the next look finds it. What was read is noted all the same.
        ended = watch(0);
        if ended.is_err() {
            break;
        }
        match open_all(repository, pack) {
            Ok(()) => intact.push(*pack),
            // It was never there, and `stored` says so; or it was swept: who needed it is forgotten for good since. Were it anything
            // else, the next look would find that what was in it is lost.
            Err(e) if e.kind() == ErrorKind::NotFound => gone += 1,
            Err(e) if repository.is_damage(&e) => {
                damaged.push(*pack);
                failed = Some(e);
            }
            Err(e) => return Err(e),
        }
    }
    for packs in [&mut intact, &mut damaged] {
        packs.retain(|pack| pack.kind == PackKind::Data);
    }
    let check = SessionId::new(clock::random(repository.rng())?);
    let all: Vec<_> =
        intact.iter().map(|pack| (*pack, true)).chain(damaged.iter().map(|pack| (*pack, false))).collect();
    for (k, part) in (0..).zip(all.chunks(Readings::MOST)) {
        let of = |intact: bool| part.iter().filter(|(_, is)| *is == intact).map(|(id, _)| *id).collect();
        let group = ReadTogether { at: began, intact: of(true), damaged: of(false) };
        repository.create(&keys::readings(&check, k), &Readings { groups: vec![group] })?;
    }
    ended.and(stored)?;
    match failed {
        Some(e) => Err(e.context("what was taken from the other repository does not come back as it was stored")),
        None => Ok(packs.len() as u64 - gone),
    }
}

fn open_all(repository: &Repository, pack: &PackId) -> Result<()> {
    let key = keys::pack(pack);
    let damaged = || Error::corrupt("its index makes no sense").with_object(&key);
    let (index, epoch, _) = read_index(repository.storage(), repository.keys(), pack)?;
    let body = repository.storage().get(&key)?;
    for entry in &index.entries {
        let at = index.location(entry, pack, epoch).ok_or_else(damaged)?;
        let range = entry.offset as usize..(entry.offset as usize).saturating_add(entry.len as usize);
        let sealed = body.get(range).ok_or_else(damaged)?;
        repository.opener().checked(entry, &at, sealed).map_err(|e| e.with_object(&key))?;
    }
    Ok(())
}
