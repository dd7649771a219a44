//! Scenes of what one writer does in which order.

use super::*;

/// `BarsAfterSeen` (R3): a writer has read a list, and while its `seen` is on the way another thread of it hits what the list condemns.
pub(super) mod raise {
    use super::*;

    pub(in super::super) fn writer(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Writes);
        let known = index();
        actor.backup(&known, ParentChoice::None, &A);
        let writer = actor.start(&known, ParentChoice::None, &A);
        *sim.pulse.lock() = writer.as_ref().map(SnapshotWriter::pulse);
        actor.tell("begun");
        actor.until("raising");
        let put = writer.as_ref().and_then(|writer| actor.put(writer, &A));
        actor.tell("decided");
        actor.until("swept");
        actor.commit(writer.filter(|_| put.is_some()), &A);
    }

    pub(in super::super) fn pulse(sim: &Sim, number: usize, seed: u64) {
        let actor = Actor::new(sim, number, seed, Role::Writes);
        actor.until("published");
        let pulse = sim.pulse.lock().take();
        actor.hold("create sess/", "/seen-", "raising", "decided");
        if let Some(pulse) = pulse {
            actor.done("beat", pulse.beat());
        }
    }

    pub(in super::super) fn forgetter(sim: &Sim, number: usize, seed: u64) {
        forget_when(sim, number, seed, "begun");
    }

    pub(in super::super) fn collector(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Collects);
        actor.until("forgotten");
        actor.hold("get gc/gen/00000001", "", "published", "");
        actor.collect(PATIENCE);
        actor.tell("swept");
    }
}

/// `RowsBeforePacks` (D5): a writer dies before its packs are stored, and the next one finds rows of them in the index.
pub(super) mod rows {
    use super::*;

    pub(in super::super) fn writer(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Writes);
        let known = index();
        drop(actor.begin(&known, ParentChoice::None, &A));
        actor.backup(&known, ParentChoice::None, &A);
    }
}

/// `UnknownIsCondemned` (G1, G6): a session begins after a collector has listed sessions, and stores a pack before it lists packs.
pub(super) mod unknown {
    use super::*;

    pub(in super::super) fn writer(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Writes);
        actor.until("sessions listed");
        let writer = actor.begin(&index(), ParentChoice::None, &A);
        actor.tell("stored");
        actor.until("published");
        let beaten = writer.as_ref().and_then(|writer| actor.done("beat", writer.pulse().beat()));
        actor.until("swept");
        actor.commit(writer.filter(|_| beaten.is_some()), &A);
    }

    pub(in super::super) fn collector(sim: &Sim, number: usize, seed: u64) {
        let mut actor = Actor::new(sim, number, seed, Role::Collects);
        actor.hold("list packs/", "", "sessions listed", "stored");
        // With all steps in place there is no such generation.
        actor.hold("get gc/gen/00000001", "", "published", "");
        actor.collect(PATIENCE);
        actor.tell("published");
        actor.tell("swept");
    }
}
