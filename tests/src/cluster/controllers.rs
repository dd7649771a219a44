//! The turns of the controllers: what they see, decide and write.

use super::*;

impl World {
    pub(super) fn decide(&mut self) -> Option<Step> {
        let mut view = self.look()?;
        view.remember(&mut self.memory);
        let step = view.next_step();
        Some(match self.tamper {
            Some(tamper) => tamper(&self.server, step),
            None => step,
        })
    }

    /// The controller looks so often again at what waits: gives its reads, and how many of them listed all PVs.
    pub fn look_again(&mut self, times: usize) -> (usize, usize) {
        let asked = |world: &Self| {
            let faults = world.faults.lock();
            (faults.reads, faults.lists_of_volumes)
        };
        let before = asked(self);
        for _ in 0..times {
            self.controller();
        }
        let after = asked(self);
        (after.0 - before.0, after.1 - before.1)
    }

    /// Time passes, and nobody does anything.
    pub fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
        self.server.set_now(self.now);
    }

    /// What the process does after some minutes: a look at the server alone.
    pub(super) fn look_anew(&mut self) -> bool {
        if self.behind.is_none() {
            return false;
        }
        self.memory.doubt = true;
        self.controller_behind()
    }

    /// As the process does it: several steps in a row rest on what was read at the first.
    fn controller_behind(&mut self) -> bool {
        let Some(mirror) = self.behind.as_ref().map(|behind| Arc::clone(&behind.mirror)) else { return false };
        let api = Client::new(&self.server, Who::Controller, Some(&self.faults));
        let cr = self.cr.clone();
        let glance = Glance::new(&api, &mirror, &cr);
        let mut acted = false;
        for _ in 0..4 {
            self.until = None;
            self.memory.admitted = true;
            let decided = now(glance.decide(&self.cr, &self.limits, self.now, &mut self.memory)).unwrap();
            let Some((_, mut step)) = decided else { break };
            if let Some(tamper) = self.tamper {
                step = tamper(&self.server, step);
            }
            self.note_step(&step);
            match step {
                Step::Do(_, write) => {
                    acted = true;
                    match now(glance.apply(&write, &mut self.memory)) {
                        Ok(applied) => {
                            self.memory.note(&write, applied);
                            // What is refused takes time, too.
                            if applied == Applied::LookAgain {
                                self.behind.as_mut().map(Behind::tell);
                            }
                        }
                        Err(e) if e.refusal == Refusal::Forbidden => self.memory.note_refusal(&e),
                        Err(_) => {
                            self.memory = Memory::default();
                            break;
                        }
                    }
                    self.settle();
                }
                Step::Wait { until, .. } => {
                    self.until = until;
                    break;
                }
                Step::Ignore | Step::Nothing => break,
            }
        }
        acted || self.behind.as_mut().is_some_and(Behind::tell)
    }

    pub(super) fn note_step(&mut self, step: &Step) {
        let name = step.name();
        if self.steps.last() != Some(&name) {
            self.steps.push(name);
        }
    }

    pub(super) fn controller(&mut self) -> bool {
        if self.behind.is_some() {
            return self.controller_behind();
        }
        self.until = None;
        let Some(step) = self.decide() else { return false };
        self.note_step(&step);
        match step {
            Step::Do(_, write) => {
                self.write(&write);
                true
            }
            Step::Wait { until, .. } => {
                self.until = until;
                false
            }
            Step::Ignore | Step::Nothing => false,
        }
    }

    fn write(&mut self, write: &Write) {
        let api = Client::new(&self.server, Who::Controller, Some(&self.faults));
        match now(apply(&api, write)) {
            Ok(applied) => self.memory.note(write, applied),
            // Nothing dies of that.
            Err(e) if e.refusal == Refusal::Forbidden => self.memory.note_refusal(&e),
            // The process dies; the next one knows nothing.
            Err(_) => self.memory = Memory::default(),
        }
    }
}
