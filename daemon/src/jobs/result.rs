//! The result of a Job in the cluster: a key of a ConfigMap, where the next Job and the controller find it.

use crate::agent::store::guard_of;
use crate::agent::surroundings::Surroundings;
use anyhow::Result;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use wherry_api::api::{Api, Key, Kind, Refusal, guarded};
use wherry_api::job::{CONFIG_MAP, JobKind, JobResult, State};
use wherry_api::{Time, names};
use wherry_repo::Error;

/// So often a write is tried again, and after so long.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);

/// What is kept of the Job of this kind before; `None`: nothing, or nothing that this version reads.
fn before(map: &Value, kind: JobKind, location: &str) -> Option<JobResult> {
    let text = map["data"][kind.key(location)].as_str()?;
    JobResult::parse(text).inspect_err(|e| tracing::warn!("{e}: it is begun anew")).ok()
}

/// First absences of this repository, as they are known.
///
/// # Errors
/// When the API server gives no answer.
pub(super) fn missing(around: &Surroundings, location: &str, repository: &str) -> Result<BTreeMap<String, Time>> {
    let map = around.get(Kind::ConfigMap, CONFIG_MAP)?.unwrap_or_default();
    let before =
        before(&map, JobKind::Forget, location).filter(|before| before.repository.as_deref() == Some(repository));
    Ok(before.and_then(|before| before.forgetting).unwrap_or_default().missing)
}

/// The result with what has to outlive it of the one before.
fn merged(before: Option<&JobResult>, result: &JobResult) -> JobResult {
    let mut merged = result.clone();
    // One that did not come so far says nothing about another repository.
    let before = before.filter(|before| result.repository.is_none() || result.repository == before.repository);
    let Some(before) = before else {
        merged.last_done = (result.state == State::Done).then_some(result.at);
        merged.first = Some(result.at);
        return merged;
    };
    merged.last_done = if result.state == State::Done { Some(result.at) } else { before.last_done };
    merged.first = Some(before.first.unwrap_or(before.at).min(result.at));
    merged.repository = result.repository.clone().or_else(|| before.repository.clone());
    match (&mut merged.forgetting, &before.forgetting) {
        // The other one of two at once may have seen it earlier.
        (Some(now), Some(before)) => {
            for (key, since) in &mut now.missing {
                *since = before.missing.get(key).map_or(*since, |known| (*known).min(*since));
            }
        }
        // Nothing was looked at: what was known is known still.
        (None, Some(before)) => merged.forgetting = Some(before.clone()),
        (_, None) => {}
    }
    merged
}

/// Writes it; gives it as it stands then.
///
/// # Errors
/// When the API server does not take it.
pub(super) fn keep(around: &Surroundings, location: &str, result: &JobResult) -> Result<JobResult> {
    let key = Key::new(Kind::ConfigMap, &around.namespace, CONFIG_MAP);
    let mut tries = 0;
    loop {
        tries += 1;
        match try_keep(around, location, result, &key) {
            Ok(Some(kept)) => return Ok(kept),
            Ok(None) if tries < TRIES => {}
            Ok(None) => {
                let text =
                    format!("ConfigMap {CONFIG_MAP} changes all the time: the result of this Job was not written");
                return Err(Error::new(wherry_repo::ErrorKind::Unavailable, text).into());
            }
            Err(e) if tries >= TRIES => return Err(e),
            Err(e) => {
                tracing::warn!("{e:#}; it is tried again");
                std::thread::sleep(PAUSE);
            }
        }
    }
}

/// `None`: it has changed since it was looked at.
fn try_keep(around: &Surroundings, location: &str, result: &JobResult, key: &Key) -> Result<Option<JobResult>> {
    let map = around.get(Kind::ConfigMap, CONFIG_MAP)?;
    let kept = merged(map.as_ref().and_then(|map| before(map, result.job, location)).as_ref(), result);
    let data = json!({ result.job.key(location): kept.print() });
    let written = match map {
        None => {
            // A backup of the namespace of Velero would bring it back one day, with what was known long ago.
            let labels = json!({ names::EXCLUDE: "true" });
            let metadata = json!({ "name": CONFIG_MAP, "namespace": around.namespace, "labels": labels });
            let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data });
            around.wait_briefly("create", around.api.create(key, &map))
        }
        Some(map) => {
            let patch = guarded(&json!({ "data": data }), &guard_of(&map)?);
            around.wait_briefly("patch", around.api.patch(key, &patch))
        }
    };
    match written {
        Ok(_) => Ok(Some(kept)),
        Err(e) if matches!(e.refusal, Refusal::Exists | Refusal::Conflict | Refusal::NotFound) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wherry_api::job::Forgetting;

    fn of(repository: Option<&str>, state: State, at: i64, missing: Option<&[(&str, i64)]>) -> JobResult {
        let missing = missing.map(|pairs| pairs.iter().map(|(key, at)| ((*key).to_owned(), Time(*at))).collect());
        JobResult {
            repository: repository.map(ToOwned::to_owned),
            forgetting: missing.map(|missing| Forgetting { missing, ..Forgetting::default() }),
            ..JobResult::new(JobKind::Forget, Time(at), state, String::new())
        }
    }

    fn missing(result: &JobResult) -> Vec<(&str, i64)> {
        let known = result.forgetting.as_ref().map(|forgetting| &forgetting.missing);
        known.into_iter().flatten().map(|(key, at)| (key.as_str(), at.0)).collect()
    }

    #[test]
    fn what_was_known_outlives_a_job_that_came_to_nothing() {
        let done = merged(None, &of(Some("r"), State::Done, 10, Some(&[("a", 10), ("b", 5)])));
        assert_eq!(done.last_done, Some(Time(10)));
        let nothing =
            [State::Failed, State::Refused, State::Unfinished].map(|state| [(state, None), (state, Some("r"))]);
        for (state, repository) in nothing.into_iter().flatten() {
            let next = merged(Some(&done), &of(repository, state, 20, None));
            assert_eq!(
                (missing(&next), next.last_done, next.at),
                (vec![("a", 10), ("b", 5)], Some(Time(10)), Time(20))
            );
            assert_eq!(next.repository.as_deref(), Some("r"));
        }
        let hold = merged(Some(&done), &of(Some("r"), State::OnHold, 20, Some(&[("a", 10), ("c", 20)])));
        assert_eq!((missing(&hold), hold.last_done), (vec![("a", 10), ("c", 20)], Some(Time(10))));
        assert_eq!((done.first, hold.first), (Some(Time(10)), Some(Time(10))), "of the first one");
        // An earlier build did not say it.
        let old = JobResult { first: None, ..done.clone() };
        assert_eq!(merged(Some(&old), &of(None, State::Failed, 20, None)).first, Some(Time(10)));
        // Two at once: the other one saw it earlier, and this one sees that another is back.
        let late = merged(Some(&done), &of(Some("r"), State::Done, 21, Some(&[("a", 12)])));
        assert_eq!((missing(&late), late.last_done), (vec![("a", 10)], Some(Time(21))));
    }

    #[test]
    fn another_repository_begins_anew() {
        let done = merged(None, &of(Some("r"), State::Done, 10, Some(&[("a", 10)])));
        let other = merged(Some(&done), &of(Some("s"), State::OnHold, 20, Some(&[("a", 20)])));
        assert_eq!((missing(&other), other.last_done, other.first), (vec![("a", 20)], None, Some(Time(20))));
    }
}
