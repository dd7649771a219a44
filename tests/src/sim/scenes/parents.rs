//! Scenes of sessions that lean on a parent.

use super::*;

/// A session that leans on the first snapshot, hears of both lists, and commits when all is swept.
fn lean(actor: &mut Actor<'_>) {
    let Some((_, parent)) = actor.made(0) else { return };
    lean_on(actor, ParentChoice::Snapshot(parent));
}

/// Likewise, on another one.
fn lean_on(actor: &mut Actor<'_>, parent: ParentChoice) {
    let writer = actor.begin(&index(), parent, &A);
    actor.tell("leaning");
    for (published, swept) in [("published 1", "swept 1"), ("published 2", "swept 2")] {
        actor.until(published);
        if let Some(writer) = &writer {
            actor.done("beat", writer.pulse().beat());
        }
        actor.until(swept);
    }
    actor.commit(writer, &A);
}

/// Two collections, whose lists and sweeps the others hear of.
fn collect_twice(actor: &mut Actor<'_>) {
    let rounds = [
        ("get gc/gen/00000001", "published 1", "swept 1"),
        // With all steps in place there may be no such generation.
        ("get gc/gen/00000002", "published 2", "swept 2"),
    ];
    for (begin, published, swept) in rounds {
        actor.hold(begin, "", published, "");
        actor.collect(PATIENCE);
        actor.tell(published);
        actor.tell(swept);
    }
}

/// `ParentUnchecked` (W5): it is stalled between W1 and W2. Meanwhile its parent becomes Final and the delete set is sealed;
/// its packs go when it has listed them (W8).
pub(super) mod parent {
    use super::*;

    pub(in super::super) fn writer(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Writes);
        actor.backup(&index(), ParentChoice::Auto, &A);
        actor.hold("create sess/", "/open", "chosen", "sealed");
        actor.backup(&index(), ParentChoice::Auto, &A);
        actor.tell("committed");
    }

    pub(in super::super) fn forgetter(sim: &Sim, number: usize, seed: u64) {
        forget_when(sim, number, seed, "chosen");
    }

    pub(in super::super) fn collector(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Collects);
        actor.until("forgotten");
        actor.hold("delete packs/", "", "sealed", "committed");
        actor.collect(PATIENCE);
    }
}

/// `FirstMarkWithoutParents` (G5): the parent of a session that goes on for long is Final. The second mark of the first
/// generation still rescues its packs, but its record goes with the sweep (G13), and without that the next generation does not
/// take it for a root any more. The session has heard of both lists: what it has of its parent no list bars.
pub(super) mod first {
    use super::*;

    pub(in super::super) fn writer(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Writes);
        actor.backup(&index(), ParentChoice::None, &A);
        // The newest record of a volume stays.
        actor.backup(&index(), ParentChoice::None, &B);
        lean(&mut actor);
    }

    pub(in super::super) fn forgetter(sim: &Sim, number: usize, seed: u64) {
        forget_when(sim, number, seed, "leaning");
    }

    pub(in super::super) fn collector(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Collects);
        actor.until("forgotten");
        collect_twice(&mut actor);
    }
}

/// `SecondMarkWithoutParents` (G10): a hit in a condemned pack is committed after G4; another session leans on that snapshot,
/// which then is forgotten and made final, before G10, by a collector that began before the list was out.
pub(super) mod second {
    use super::*;

    pub(in super::super) fn writer(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Writes);
        let known = index();
        actor.backup(&known, ParentChoice::None, &A);
        let writer = actor.begin(&known, ParentChoice::None, &A);
        actor.hold("create snap/", "", "deciding", "published");
        actor.commit(writer, &A);
        actor.tell("committed");
    }

    pub(in super::super) fn next(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Writes);
        actor.until("committed");
        let writer = actor.begin(&index(), ParentChoice::Auto, &A);
        actor.tell("leaning");
        actor.until("swept");
        actor.commit(writer, &A);
    }

    pub(in super::super) fn forgetter(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Forgets);
        actor.until("deciding");
        actor.until("begun");
        actor.forget(0);
        actor.tell("forgotten");
        actor.until("leaning");
        actor.forget(1);
        actor.tell("forgotten again");
    }

    pub(in super::super) fn collector(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Collects);
        actor.until("forgotten");
        actor.hold("get gc/gen/00000001", "", "published", "final");
        actor.collect(PATIENCE);
        actor.tell("swept");
    }

    pub(in super::super) fn late(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Collects);
        actor.until("deciding");
        actor.hold("list forget/", "", "begun", "forgotten again");
        actor.hold("list sess/", "", "final", "swept");
        actor.collect(Duration::ZERO);
    }
}

/// `SessionsBeforeForgets` (G2, G3): a session begins when sessions were listed and passes W5, then its parent becomes Final, and
/// that is listed. As in `first` its record goes with the sweep, and the next generation does not take it for a root.
pub(super) mod order {
    use super::*;

    pub(in super::super) fn writer(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Writes);
        actor.backup(&index(), ParentChoice::Auto, &A);
        // The newest record of a volume stays.
        actor.backup(&index(), ParentChoice::None, &B);
        actor.tell("stored");
        actor.until("listed");
        lean(&mut actor);
    }

    pub(in super::super) fn forgetter(sim: &Sim, number: usize, seed: u64) {
        forget_when(sim, number, seed, "leaning");
        let mut actor = Actor::new(sim, number, seed, Role::Forgets);
        let Some((_, id)) = actor.made(0) else { return };
        let settled = actor.0.open().and_then(|repository| repository.settle(&id));
        actor.done("settle", settled);
        actor.tell("final");
    }

    pub(in super::super) fn collector(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Collects);
        actor.until("stored");
        actor.hold("list meta/", "", "listed", "final");
        collect_twice(&mut actor);
    }
}

/// `SlotsAreAdopted` (A4): a session that leans on the first snapshot dies, and another one takes over what it had. As the `open` of that
/// one does not say so, nobody keeps it.
pub(super) mod adopted {
    use super::*;

    pub(in super::super) fn writer(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Writes);
        actor.backup(&index(), ParentChoice::None, &A);
        // The newest record of a volume stays.
        actor.backup(&index(), ParentChoice::None, &B);
        let Some((_, parent)) = actor.made(0) else { return };
        drop(actor.begin(&index(), ParentChoice::Snapshot(parent), &A));
        sim.schedule.pass(Duration::from_secs(3 * 3600));
        lean(&mut actor);
    }
}

/// `ParentIsExchanged` (W7): the parent of a session is refused, and it goes on with another one, which its `open` does not name.
pub(super) mod exchanged {
    use super::*;

    pub(in super::super) fn writer(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Writes);
        actor.backup(&index(), ParentChoice::None, &A);
        // It shares nothing with the other one: that it is a root keeps none of that.
        actor.backup(&index(), ParentChoice::None, &B);
        actor.hold("create sess/", "/open", "chosen", "refused");
        lean_on(&mut actor, ParentChoice::Auto);
    }

    pub(in super::super) fn forgetter(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Forgets);
        actor.until("chosen");
        actor.forget(1);
        actor.tell("refused");
        forget_when(sim, number, seed, "leaning");
    }
}
