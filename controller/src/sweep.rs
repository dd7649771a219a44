//! What no CR removes: at the start of a controller that acts, and once an hour, bases that are not wanted any more are dropped
//! (`controller/docs/kept-bases.md`), and what is left of CRs that are gone or done is removed ([`crate::leaks`]).

use crate::apply::apply;
use crate::jobs::Around;
use crate::leaks::{Found, leaks};
use crate::observe::{ObserveError, lists_changed_blocks};
use crate::reconcile::{Limits, Write, base_of};
use crate::work::time;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use wherry_api::api::{Api, ApiError, Guard, Key, Kind, Refusal};
use wherry_api::cluster::Claim;
use wherry_api::decode::{decode, decode_all};
use wherry_api::{Base, DataUpload, KeepBase, Settings, VolumeSnapshot, names};

/// Requests of one where nothing is left over. Not among them: of each kept base its DataUpload and its PVC, and where `keepBase` is
/// auto two more for each driver. A list of more than 500 objects is more than one.
pub const AT_REST: usize = 6;
/// Between two sweeps.
pub(crate) const EVERY: Duration = Duration::from_secs(3600);
/// The second one, so long after the start: by then what the process before had asked for without an answer is there, if it ever will be.
const SECOND: Duration = Duration::from_secs(70);
/// After an error, and where something is left; then later and later.
const RETRY: Duration = Duration::from_secs(60);
/// Of what is left so many are named.
const NAMED: usize = 20;

/// A kept base and what its end depends on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Kept {
    /// What it says of itself; `None`: nothing that can be read.
    pub base: Option<Base>,
    /// The DataUpload of that name, as it is now.
    pub cr: Option<DataUpload>,
    /// The source PVC of that name, as it is now.
    pub claim: Option<Claim>,
    /// The setting says so, and where it says auto, the driver.
    pub wanted: bool,
    /// There is a kept one of a later backup of the same PVC.
    pub superseded: bool,
}

impl Kept {
    /// Why it is dropped. `None`: it stays, or its upload is still seeing to it.
    #[must_use]
    pub fn over(&self) -> Option<&'static str> {
        let Some(base) = &self.base else { return Some("what it is the base of cannot be read") };
        let cr = self.cr.as_ref().map(|cr| &cr.metadata).filter(|cr| cr.uid == base.cr_uid);
        let Some(cr) = cr else { return Some("its DataUpload, and so its backup, is gone") };
        if cr.has_finalizer(names::FINALIZER) {
            return None;
        }
        let claim = self.claim.as_ref().map(|claim| &claim.metadata);
        match claim.filter(|claim| claim.uid == base.pvc_uid && !claim.is_going()) {
            _ if cr.is_going() => Some("its DataUpload is being deleted"),
            None => Some("its PVC is gone, or another one of that name"),
            Some(_) if self.superseded => Some("a later backup has its own"),
            Some(_) if !self.wanted => Some("setting keepBase says so"),
            Some(_) => None,
        }
    }
}

/// Drops the bases in a namespace of Velero whose time is over; gives how many.
///
/// # Errors
/// Those of the API; what is left is dropped the next time.
pub async fn bases<A: Api>(
    api: &A,
    namespace: &str,
    settings: &Settings,
    may_write: impl Fn() -> Result<(), ApiError>,
) -> Result<usize, ApiError> {
    // Those first: a CR that is not there afterwards is gone.
    let marked = api.list(Kind::VolumeSnapshot, namespace, &[]).await?;
    let (mut marked, _) = decode_all::<VolumeSnapshot>(Kind::VolumeSnapshot.word(), &marked);
    marked.retain(|snapshot| snapshot.metadata.label(names::BASE).is_some() && !snapshot.metadata.is_going());
    let all: Vec<Base> = marked.iter().filter_map(base_of).collect();
    let mut drivers = BTreeMap::new();
    let mut dropped = 0;
    let mut failed = None;
    for snapshot in &marked {
        let mut kept = Kept { base: base_of(snapshot), ..Kept::default() };
        if let Some(base) = &kept.base {
            let get = async |kind: Kind, namespace: &str, name: &str| api.get(&Key::new(kind, namespace, name)).await;
            kept.cr = get(Kind::DataUpload, namespace, &base.cr).await?.and_then(|cr| decode("DataUpload", &cr).ok());
            kept.claim = get(Kind::Claim, &base.namespace, &base.pvc).await?.and_then(|claim| decode("", &claim).ok());
            kept.superseded = all.iter().any(|other| other.pvc_uid == base.pvc_uid && other.is_later(base));
            kept.wanted = match settings.keep_base.of(&base.storage_class) {
                KeepBase::Always => true,
                KeepBase::Never => false,
                KeepBase::Auto => match drivers.get(&base.driver) {
                    Some(known) => *known,
                    None => {
                        let lists = lists_changed_blocks(api, &base.driver).await?;
                        drivers.insert(base.driver.clone(), lists);
                        lists
                    }
                },
            };
        }
        let Some(why) = kept.over() else { continue };
        may_write()?;
        let meta = &snapshot.metadata;
        let key = Key::new(Kind::VolumeSnapshot, &meta.namespace, &meta.name);
        tracing::info!("{key}, a kept base: dropped, as {why}");
        let guard = Guard { uid: meta.uid.clone(), resource_version: meta.resource_version.clone() };
        match apply(api, &Write::Delete { key, guard }).await {
            Ok(_) => dropped += 1,
            // One that cannot be deleted keeps no other.
            Err(e) => drop(failed.get_or_insert(e)),
        }
    }
    failed.map_or(Ok(dropped), Err)
}

/// When the next one is, by whether anything was wrong or left. `second`: when the second one is due at the latest, whatever led to
/// sweeps before it.
fn next_after(now: Instant, clean: bool, second: Instant, again: Duration) -> Instant {
    match clean {
        false => now + again,
        true if now < second => second,
        true => now + EVERY,
    }
}

/// Sweeps until the loop ends: at once, a little later, every hour, and when settings change. `left`: of the cluster, what nobody owns.
pub(crate) async fn run(around: Around, left: Arc<AtomicUsize>) {
    let mut settings = around.settings.clone();
    let (mut next, mut again) = (Instant::now(), RETRY);
    let second = next + SECOND;
    loop {
        let ready = settings.borrow().is_some();
        tokio::select! {
            changed = settings.changed() => match changed {
                Ok(()) => next = Instant::now(),
                Err(_) => return,
            },
            () = tokio::time::sleep_until(next.into()), if ready => {
                let in_force = settings.borrow().clone();
                let Some(in_force) = in_force else { continue };
                let clean = match sweep(&around, &in_force).await {
                    Ok(found) => {
                        let of_cluster = |key: &&Key| !key.kind.is_namespaced();
                        left.store(found.left.iter().filter(of_cluster).count(), Ordering::Relaxed);
                        found.left.is_empty()
                    }
                    Err(e) => {
                        tracing::warn!("sweep: {e}");
                        false
                    }
                };
                next = next_after(Instant::now(), clean, second, again);
                // What waits for a driver may wait for long.
                again = if clean { RETRY } else { EVERY.min(again.saturating_mul(2)) };
            }
        }
    }
}

async fn sweep(around: &Around, settings: &Settings) -> Result<Found, ObserveError> {
    let (api, namespace) = (&around.api, around.options.namespace.as_str());
    // Another replica may act by now: what it does is not done twice.
    let may_write = || match around.held.borrow().is_some_and(|until| Instant::now() < until) {
        true => Ok(()),
        false => {
            let why = "the Lease is not certain to be ours".to_owned();
            Err(ApiError::new(Refusal::Unavailable, "a sweep", why))
        }
    };
    let dropped = bases(api, namespace, settings, may_write).await;
    let found = leaks(api, namespace, &Limits::from(settings), time(), may_write).await?;
    let dropped = dropped?;
    tracing::debug!("swept: {dropped} bases dropped, {} writes for what was left", found.writes);
    if !found.left.is_empty() {
        let named: Vec<String> = found.left.iter().take(NAMED).map(ToString::to_string).collect();
        tracing::warn!("{} objects are left of CRs that are gone or done: {}", found.left.len(), named.join(", "));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept {
        let base = Base { cr_uid: "u".into(), pvc_uid: "p".into(), ..Base::default() };
        let (mut cr, mut claim) = (DataUpload::default(), Claim::default());
        cr.metadata.uid = "u".into();
        claim.metadata.uid = "p".into();
        Kept { base: Some(base), cr: Some(cr), claim: Some(claim), wanted: true, superseded: false }
    }

    /// A create whose answer got lost with the process that had asked may be done after the first sweep of the next one, and after
    /// the CR was let go: nobody else would remove what it made.
    #[test]
    fn a_second_sweep_comes_when_nothing_can_appear_any_more() {
        let unsure = crate::work::UNSURE;
        assert!(SECOND > unsure && SECOND < unsure * 2, "{SECOND:?}");
        let (start, short) = (Instant::now(), Duration::from_secs(1));
        let second = start + SECOND;
        // However many there were before, as settings changed.
        assert_eq!(next_after(start, true, second, RETRY), second);
        assert_eq!(next_after(second - short, true, second, RETRY), second);
        assert_eq!(next_after(second, true, second, RETRY), second + EVERY);
        assert_eq!(next_after(start, false, second, RETRY), start + RETRY);
        assert_eq!(next_after(second, false, second, EVERY), second + EVERY);
    }

    #[test]
    fn one_stays_while_all_it_depends_on_does() {
        assert_eq!(kept().over(), None);
        let over = |change: fn(&mut Kept)| {
            let mut kept = kept();
            change(&mut kept);
            kept.over().unwrap_or("kept")
        };
        let going = Some(wherry_api::Time(1));
        assert!(over(|kept| kept.base = None).contains("cannot be read"));
        assert!(over(|kept| kept.cr = None).contains("is gone"));
        assert!(over(|kept| kept.cr.as_mut().unwrap().metadata.uid = "v".into()).contains("is gone"));
        assert!(over(|kept| kept.claim = None).contains("PVC"));
        assert!(over(|kept| kept.claim.as_mut().unwrap().metadata.uid = "q".into()).contains("PVC"));
        assert!(over(|kept| kept.superseded = true).contains("later"));
        assert!(over(|kept| kept.wanted = false).contains("keepBase"));
        let mut kept = kept();
        kept.claim.as_mut().unwrap().metadata.deletion_timestamp = going;
        assert!(kept.over().is_some_and(|why| why.contains("PVC")));
        // Its upload removes things by itself.
        kept.cr.as_mut().unwrap().metadata.finalizers = vec![names::FINALIZER.to_owned()];
        assert_eq!(kept.over(), None);
        let mut going_cr = self::kept();
        going_cr.cr.as_mut().unwrap().metadata.deletion_timestamp = going;
        assert!(going_cr.over().is_some_and(|why| why.contains("being deleted")));
    }
}
