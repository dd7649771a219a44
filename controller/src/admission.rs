//! Which of the waiting CRs may begin: before anything is exposed for them, and before Velero's item timeout runs out.
//!
//! Earliest deadline first, within the limit of the cluster, the slots of the nodes, and a share of the limit for
//! restores and for backups that the other kind does not take while they wait.

use std::collections::{BTreeMap, BTreeSet};
use wherry_api::{Settings, Time};

/// Upload or download.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Work {
    /// Of a DataUpload.
    Backup,
    /// Of a DataDownload.
    Restore,
}

/// A CR in phase New.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// uid of the CR.
    pub uid: String,
    /// Which.
    pub work: Work,
    /// Creation and item timeout: later, nobody waits for it any more.
    pub deadline: Time,
    /// Nodes that its volume can be published on; none: any.
    pub nodes: Option<BTreeSet<String>>,
}

/// A CR in phase Accepted to Canceling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Active {
    /// Which.
    pub work: Work,
    /// Where it runs.
    pub node: Option<String>,
    /// As long as that is not known: where it can.
    pub nodes: Option<BTreeSet<String>>,
}

/// Those that may begin now, by uid. `nodes`: those with an agent.
#[must_use]
pub fn admit(
    waiting: &[Waiting],
    active: &[Active],
    nodes: &BTreeSet<String>,
    settings: &Settings,
) -> BTreeSet<String> {
    let mut admitted = BTreeSet::new();
    if settings.pause {
        return admitted;
    }
    let mut room = Room::new(active, nodes, settings);
    let mut queue: Vec<&Waiting> = waiting.iter().collect();
    queue.sort_by(|a, b| (a.deadline, &a.uid).cmp(&(b.deadline, &b.uid)));
    // How many of each kind wait and have a node: counted when it is asked for, and anew only once somebody has begun.
    let mut waits: BTreeMap<Work, usize> = BTreeMap::new();
    // One that has no node must not stand in the way of those behind it, nor keep a share free that it cannot use.
    for next in &queue {
        // Thousands may wait behind those that fill it.
        if room.is_full() {
            break;
        }
        let others = *waits.entry(other(next.work)).or_insert_with(|| {
            let of_it = queue.iter().filter(|w| w.work != next.work && !admitted.contains(&w.uid));
            // More than all places make no difference to a share.
            of_it.filter(|w| room.has_node(w)).take(room.places).count()
        });
        if room.has_share(next.work, others) && room.take_node(next.nodes.as_ref()) {
            *room.taken.entry(next.work).or_default() += 1;
            admitted.insert(next.uid.clone());
            waits.clear();
        }
    }
    admitted
}

fn other(work: Work) -> Work {
    match work {
        Work::Backup => Work::Restore,
        Work::Restore => Work::Backup,
    }
}

struct Room<'a> {
    settings: &'a Settings,
    /// So many may be active at once: the limit of the cluster, or those that are and all free slots, where that is fewer. Shares are
    /// of this.
    places: usize,
    taken: BTreeMap<Work, usize>,
    free: BTreeMap<&'a str, usize>,
}

impl<'a> Room<'a> {
    fn new(active: &'a [Active], nodes: &'a BTreeSet<String>, settings: &'a Settings) -> Self {
        let free = nodes.iter().map(|node| (node.as_str(), settings.slots_per_node)).collect();
        let mut room = Self { settings, places: 0, taken: BTreeMap::new(), free };
        let (placed, unplaced): (Vec<&Active>, Vec<&Active>) = active.iter().partition(|one| one.node.is_some());
        for one in placed.iter().chain(&unplaced) {
            *room.taken.entry(one.work).or_default() += 1;
            match &one.node {
                Some(node) => {
                    if let Some(free) = room.free.get_mut(node.as_str()) {
                        *free = free.saturating_sub(1);
                    }
                }
                None => {
                    room.take_node(one.nodes.as_ref());
                }
            }
        }
        // One whose node has no agent any more is active, and takes no slot that there is.
        let free: usize = room.free.values().sum();
        room.places = settings.max_active.min(active.len().saturating_add(free));
        room
    }

    fn taken(&self, work: Work) -> usize {
        self.taken.get(&work).copied().unwrap_or(0)
    }

    /// Whether one more of the kind fits, when so many of the other kind wait.
    fn has_share(&self, work: Work, others_waiting: usize) -> bool {
        let all = self.taken(Work::Backup) + self.taken(Work::Restore);
        let reserved = self.share(other(work)).saturating_sub(self.taken(other(work))).min(others_waiting);
        all + reserved < self.places
    }

    /// Places that the kind gets while the other one waits, too. Both together are never more than there are: else one stayed
    /// empty, kept by each for the other.
    fn share(&self, work: Work) -> usize {
        // Rounded up: a share that is not zero is at least one place, unless there is only one in all.
        let rounded = |percent: usize| (self.places * percent).div_ceil(100).min(self.places.saturating_sub(1));
        let restores = rounded(self.settings.restore_share);
        match work {
            Work::Restore => restores,
            Work::Backup => rounded(self.settings.backup_share).min(self.places - restores),
        }
    }

    /// Nobody can begin, whoever it is.
    fn is_full(&self) -> bool {
        let all = self.taken(Work::Backup) + self.taken(Work::Restore);
        all >= self.places || self.free.values().all(|free| *free == 0)
    }

    fn has_node(&self, waiting: &Waiting) -> bool {
        self.free.iter().any(|(node, free)| *free > 0 && waiting.nodes.as_ref().is_none_or(|n| n.contains(*node)))
    }

    /// The node with most free slots of those that will do.
    fn take_node(&mut self, nodes: Option<&BTreeSet<String>>) -> bool {
        let fits = self.free.iter_mut().filter(|(node, free)| **free > 0 && nodes.is_none_or(|n| n.contains(**node)));
        match fits.max_by_key(|(_, free)| **free) {
            Some((_, free)) => {
                *free -= 1;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        Settings::parse(&pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()).unwrap()
    }

    fn nodes(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn waiting(uid: &str, work: Work, deadline: i64) -> Waiting {
        Waiting { uid: uid.to_owned(), work, deadline: Time(deadline), nodes: None }
    }

    fn busy(work: Work, node: Option<&str>) -> Active {
        Active { work, node: node.map(str::to_owned), nodes: None }
    }

    fn admitted(waiting: &[Waiting], active: &[Active], on: &[&str], pairs: &[(&str, &str)]) -> Vec<String> {
        admit(waiting, active, &nodes(on), &settings(pairs)).into_iter().collect()
    }

    use Work::{Backup, Restore};

    #[test]
    fn the_earliest_deadline_comes_first() {
        let queue = [waiting("a", Backup, 30), waiting("b", Backup, 10), waiting("c", Backup, 20)];
        assert_eq!(admitted(&queue, &[], &["n1"], &[("maxActive", "2")]), ["b", "c"]);
        // Of equal deadlines always the same: two controllers that decide at once decide alike.
        let queue = [waiting("b", Backup, 1), waiting("a", Backup, 1)];
        assert_eq!(admitted(&queue, &[], &["n1"], &[("maxActive", "1")]), ["a"]);
    }

    #[test]
    fn the_limit_of_the_cluster_and_the_slots_of_nodes_hold() {
        let queue: Vec<Waiting> = (0..9).map(|n| waiting(&format!("u{n}"), Backup, n)).collect();
        let limits = [("maxActive", "8"), ("slotsPerNode", "2")];
        assert_eq!(admitted(&queue, &[], &["n1", "n2"], &limits).len(), 4);
        assert_eq!(admitted(&queue, &[], &["n1", "n2", "n3", "n4", "n5"], &limits).len(), 8);
        let active = [busy(Backup, Some("n1")), busy(Backup, None)];
        assert_eq!(admitted(&queue, &active, &["n1", "n2"], &limits).len(), 2);
        assert_eq!(admitted(&queue, &active, &[], &limits), [""; 0]);
        assert_eq!(admitted(&queue, &[], &["n1"], &[("pause", "true")]), [""; 0]);
    }

    #[test]
    fn one_without_a_node_keeps_nobody_waiting() {
        let mut first = waiting("a", Restore, 1);
        first.nodes = Some(nodes(&["gone"]));
        let mut second = waiting("b", Backup, 2);
        second.nodes = Some(nodes(&["n1"]));
        let limits = [("maxActive", "2"), ("slotsPerNode", "1")];
        assert_eq!(
            admitted(&[first, second.clone(), waiting("c", Backup, 3)], &[], &["n1", "n2"], &limits),
            ["b", "c"]
        );
        let full = [busy(Backup, Some("n1"))];
        assert_eq!(admitted(&[second], &full, &["n1", "n2"], &limits), [""; 0]);
    }

    /// A restore may have the last place, and there is one: those behind it are passed over, however many they are.
    #[test]
    fn thousands_wait_behind_a_place_that_is_kept_free() {
        let mut queue: Vec<Waiting> = (0..20_000).map(|n| waiting(&format!("b{n:05}"), Backup, n)).collect();
        queue.push(waiting("r", Restore, 30_000));
        let limits = [("maxActive", "8"), ("slotsPerNode", "20"), ("restoreShare", "50"), ("backupShare", "25")];
        let active: Vec<Active> = (0..7).map(|_| busy(Backup, Some("n1"))).collect();
        assert_eq!(admitted(&queue, &active, &["n1"], &limits), ["r"]);
    }

    #[test]
    fn each_kind_has_its_share_while_the_other_waits() {
        let mut queue: Vec<Waiting> = (0..20).map(|n| waiting(&format!("b{n:02}"), Backup, n)).collect();
        let limits = [("maxActive", "8"), ("slotsPerNode", "20"), ("restoreShare", "50"), ("backupShare", "25")];
        // Alone, one kind may have all.
        assert_eq!(admitted(&queue, &[], &["n1"], &limits).len(), 8);
        queue.extend((0..20).map(|n| waiting(&format!("r{n:02}"), Restore, 100 + n)));
        let chosen = admitted(&queue, &[], &["n1"], &limits);
        let restores = chosen.iter().filter(|uid| uid.starts_with('r')).count();
        assert_eq!((chosen.len(), restores), (8, 4));
        // Backups have taken all; what becomes free goes to restores until they have their share.
        let active: Vec<Active> = (0..7).map(|_| busy(Backup, Some("n1"))).collect();
        assert_eq!(admitted(&queue, &active, &["n1"], &limits), ["r00"]);
        // And the other way round: two of eight are for backups.
        let active: Vec<Active> = (0..6).map(|_| busy(Restore, Some("n1"))).collect();
        assert_eq!(admitted(&queue, &active, &["n1"], &limits), ["b00", "b01"]);
        // A single place is not kept free for anybody.
        assert_eq!(admitted(&queue, &[], &["n1"], &[("maxActive", "1")]), ["b00"]);
    }

    /// Shares are rounded up, and two of them may be more than all.
    #[test]
    fn no_place_is_kept_by_each_kind_for_the_other() {
        let mixed: Vec<Waiting> =
            (0..40).map(|n| waiting(&format!("u{n:02}"), if n % 2 == 0 { Backup } else { Restore }, n)).collect();
        let one_first = |first: Work| -> Vec<Waiting> {
            let deadline = |w: &Waiting| Time(w.deadline.0 + if w.work == first { 0 } else { 100 });
            mixed.iter().map(|w| Waiting { deadline: deadline(w), ..w.clone() }).collect()
        };
        for places in 1..=10 {
            for (restores, backups) in
                [("50", "50"), ("60", "40"), ("40", "60"), ("50", "25"), ("100", "0"), ("99", "1")]
            {
                let places_text = places.to_string();
                let limits = [
                    ("maxActive", places_text.as_str()),
                    ("slotsPerNode", "20"),
                    ("restoreShare", restores),
                    ("backupShare", backups),
                ];
                for queue in [mixed.clone(), one_first(Backup), one_first(Restore)] {
                    let all = admitted(&queue, &[], &["n1"], &limits).len();
                    assert_eq!(all, places, "{restores}/{backups}");
                }
            }
        }
    }

    /// With the defaults (`maxActive` 10, `slotsPerNode` 4) one node has fewer places than the cluster may have: shares are of those.
    #[test]
    fn where_slots_are_fewer_than_the_limit_the_shares_are_of_the_slots() {
        let mut queue: Vec<Waiting> = (0..4).map(|n| waiting(&format!("r{n}"), Restore, n)).collect();
        queue.extend((0..4).map(|n| waiting(&format!("b{n}"), Backup, 100 + n)));
        // Of four a backup has one (25 %), of three restores, which are older.
        assert_eq!(admitted(&queue, &[], &["n1"], &[]), ["b0", "r0", "r1", "r2"]);
        // And the other way round a restore has two (50 %).
        let mut queue: Vec<Waiting> = (0..4).map(|n| waiting(&format!("b{n}"), Backup, n)).collect();
        queue.extend((0..4).map(|n| waiting(&format!("r{n}"), Restore, 100 + n)));
        assert_eq!(admitted(&queue, &[], &["n1"], &[]), ["b0", "b1", "r0", "r1"]);
        // What is active where no agent is any more has none of these slots, and keeps nobody from one.
        let lost = vec![busy(Backup, Some("gone")); 4];
        assert_eq!(admitted(&queue, &lost, &["n1"], &[]).len(), 4);
    }
}
