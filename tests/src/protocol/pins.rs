//! Pins (F5, F6) beside forgets (F1 to F3) of one snapshot, one storage operation per action: what is pinned does not go, whoever forgets,
//! settles or takes back at the same time. Whoever stops anywhere takes no more steps. Collectors look at Final alone (F4), so they
//! are not here.

use stateright::{Model, Property};

/// Forgets of the snapshot at most.
const ASKS: usize = 2;
/// Pins of it at most.
const PINS: usize = 2;

/// The functions that perform these steps: file below `repo/src`, and name.
pub const FUNCTIONS: [(&str, &str); 5] = [
    ("pin.rs", "try_to_pin"),
    ("pin.rs", "unpin"),
    ("forget.rs", "forget"),
    ("forget.rs", "undo"),
    ("forget.rs", "settle_at"),
];

/// The steps: true is the protocol, false a mutant.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// F1: a forget looks for pins before it asks.
    pub forget_looks_first: bool,
    /// F1: a forget looks for pins when it has asked.
    pub forget_looks_again: bool,
    /// F3: whoever settles looks for pins before.
    pub settle_looks: bool,
    /// F5: a pin is refused where somebody has asked.
    pub pin_looks_first: bool,
    /// F5: a pin looks for forgets when it is there.
    pub pin_looks_again: bool,
    /// F5: it looks whether it is still there before that.
    pub pin_sees_its_end: bool,
    /// F5: a pin that finds Final is ended, and told as too late.
    pub too_late_is_told: bool,
    /// F2, F3: Undone and Final are one write-once key.
    pub settled_once: bool,
}

impl Rules {
    /// The protocol as it stands.
    pub const PROTOCOL: Self = Self {
        forget_looks_first: true,
        forget_looks_again: true,
        settle_looks: true,
        pin_looks_first: true,
        pin_looks_again: true,
        pin_sees_its_end: true,
        too_late_is_told: true,
        settled_once: true,
    };
}

/// `forget/<sid>/<k>-asked` and `-settled`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "what is there of it")]
pub enum Forget {
    No,
    Asked,
    Undone,
    Final,
}

/// `pin/<sid>/<k>-pinned` and `-unpinned`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "what is there of it")]
pub enum Pin {
    No,
    Pinned,
    Unpinned,
}

/// Who forgets: the step it takes next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs, reason = "the numbers are those of keys")]
pub enum Forgets {
    ListForgets,
    ListPins(usize),
    Ask(usize),
    ListPinsAgain,
    ListForgetsAgain,
    Undo(usize),
    Done,
}

/// Who pins: the step it takes next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs, reason = "the numbers are those of keys")]
pub enum Pins {
    ListForgets,
    ListPins,
    Create(usize),
    ListPinsAgain,
    ListForgetsAgain,
    Undo(usize),
    ListPinsToEnd,
    End(usize),
    /// It was told that the snapshot is pinned.
    Told,
    /// It was told that it is not.
    Refused,
}

/// Who settles, takes back by a user's wish, or unpins: the step it takes next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "the numbers are those of keys")]
pub enum Looks {
    List,
    ListPins(usize),
    Create(usize, Forget),
    End(usize),
    Done,
}

/// What is stored, and what everybody remembers.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    forgets: [Forget; ASKS],
    pins: [Pin; PINS],
    forgetters: [Forgets; 2],
    /// And whether somebody unpinned while they were at it: what they are told may be over by then.
    pinners: [(Pins, bool); 2],
    settler: Looks,
    undoer: Looks,
    unpinner: Looks,
    /// What the last step was a case of.
    event: Option<&'static str>,
}

/// Somebody takes a step.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "who it is")]
pub enum Action {
    Forget(usize),
    Pin(usize),
    Settle,
    Undo,
    Unpin,
}

/// What was told to be pinned, and not unpinned since, is not Final.
pub const PINNED: &str = "what is pinned does not go";
/// Nor is it asked for, when everybody who forgets has ended.
pub const UNASKED: &str = "what is pinned is not asked for";
/// All that must always hold.
pub const ALWAYS: &[&str] = &[PINNED, UNASKED];

/// All that must come up.
pub const CASES: [&str; 8] = [
    "asked again",
    "a pin took a forget back",
    "a forget took itself back",
    "settled as undone for a pin",
    "obeyed what had been settled",
    "a pin came too late",
    "pinned by another",
    "a pin was ended at once",
];

impl State {
    fn pending(&self) -> Option<usize> {
        let newest = self.forgets.iter().rposition(|f| *f != Forget::No)?;
        (self.forgets[newest] == Forget::Asked).then_some(newest)
    }

    fn is_final(&self) -> bool {
        self.forgets.contains(&Forget::Final)
    }

    fn standing(&self) -> Option<usize> {
        self.pins.iter().position(|pin| *pin == Pin::Pinned)
    }

    /// Creates, or in a mutant overwrites, `settled`; what it says then.
    fn settle(&mut self, k: usize, verdict: Forget, rules: &Rules) -> Forget {
        if self.forgets[k] == Forget::Asked || !rules.settled_once {
            self.forgets[k] = verdict;
        } else if self.forgets[k] != verdict {
            self.event = Some("obeyed what had been settled");
        }
        self.forgets[k]
    }

    fn is_pinned(&self) -> bool {
        self.pinners.contains(&(Pins::Told, false))
    }
}

impl Rules {
    fn forget(&self, st: &mut State, i: usize) {
        st.forgetters[i] = match st.forgetters[i] {
            Forgets::ListForgets => match st.forgets.iter().position(|f| *f == Forget::No) {
                _ if st.is_final() || st.pending().is_some() => Forgets::Done,
                None => Forgets::Done,
                Some(k) if self.forget_looks_first => Forgets::ListPins(k),
                Some(k) => Forgets::Ask(k),
            },
            Forgets::ListPins(_) if st.standing().is_some() => Forgets::Done,
            Forgets::ListPins(k) => Forgets::Ask(k),
            Forgets::Ask(k) => {
                if st.forgets[k] == Forget::No {
                    st.forgets[k] = Forget::Asked;
                    st.event = (k > 0).then_some("asked again");
                }
                if self.forget_looks_again { Forgets::ListPinsAgain } else { Forgets::Done }
            }
            Forgets::ListPinsAgain if st.standing().is_some() => Forgets::ListForgetsAgain,
            Forgets::ListPinsAgain => Forgets::Done,
            Forgets::ListForgetsAgain => st.pending().map_or(Forgets::Done, Forgets::Undo),
            Forgets::Undo(k) => {
                if st.settle(k, Forget::Undone, self) == Forget::Undone && st.event.is_none() {
                    st.event = Some("a forget took itself back");
                }
                Forgets::Done
            }
            Forgets::Done => Forgets::Done,
        };
    }

    fn pin(&self, st: &mut State, i: usize) {
        let late = |st: &mut State| {
            st.event = Some("a pin came too late");
            if self.too_late_is_told { Pins::ListPinsToEnd } else { Pins::Told }
        };
        st.pinners[i].0 = match st.pinners[i].0 {
            Pins::ListForgets => {
                st.pinners[i].1 = false;
                let refused = st.is_final() || st.pending().is_some();
                if refused && self.pin_looks_first { Pins::Refused } else { Pins::ListPins }
            }
            Pins::ListPins if st.standing().is_some() => {
                st.event = Some("pinned by another");
                Pins::ListPinsAgain
            }
            Pins::ListPins => st.pins.iter().position(|pin| *pin == Pin::No).map_or(Pins::Refused, Pins::Create),
            Pins::Create(k) => {
                if st.pins[k] == Pin::No {
                    st.pins[k] = Pin::Pinned;
                }
                Pins::ListPinsAgain
            }
            Pins::ListPinsAgain if st.standing().is_none() && self.pin_sees_its_end => {
                st.event = Some("a pin was ended at once");
                Pins::ListForgets
            }
            Pins::ListPinsAgain if self.pin_looks_again => Pins::ListForgetsAgain,
            Pins::ListPinsAgain => Pins::Told,
            Pins::ListForgetsAgain if st.is_final() => late(st),
            Pins::ListForgetsAgain => st.pending().map_or(Pins::Told, Pins::Undo),
            Pins::Undo(k) => match st.settle(k, Forget::Undone, self) {
                Forget::Final => late(st),
                _ => {
                    st.event = Some("a pin took a forget back");
                    Pins::Told
                }
            },
            Pins::ListPinsToEnd => st.standing().map_or(Pins::Refused, Pins::End),
            Pins::End(k) => {
                st.pins[k] = Pin::Unpinned;
                Pins::Refused
            }
            done @ (Pins::Told | Pins::Refused) => done,
        };
    }

    /// As often as there is something to settle.
    fn settle(&self, st: &mut State) {
        st.settler = match st.settler {
            Looks::List => match st.pending() {
                Some(k) if self.settle_looks => Looks::ListPins(k),
                Some(k) => Looks::Create(k, Forget::Final),
                None => Looks::List,
            },
            Looks::ListPins(k) if st.standing().is_some() => Looks::Create(k, Forget::Undone),
            Looks::ListPins(k) => Looks::Create(k, Forget::Final),
            Looks::Create(k, verdict) => {
                let is = st.settle(k, verdict, self);
                if (is, verdict) == (Forget::Undone, Forget::Undone) {
                    st.event = Some("settled as undone for a pin");
                }
                Looks::List
            }
            other => other,
        };
    }

    fn undo(&self, st: &mut State) {
        st.undoer = match st.undoer {
            Looks::List => st.pending().map_or(Looks::List, |k| Looks::Create(k, Forget::Undone)),
            Looks::Create(k, verdict) => {
                st.settle(k, verdict, self);
                Looks::Done
            }
            other => other,
        };
    }

    fn unpin(&self, st: &mut State) {
        st.unpinner = match st.unpinner {
            Looks::List => match st.standing() {
                Some(k) => {
                    // From here on nobody was promised anything.
                    st.pinners.iter_mut().for_each(|(_, over)| *over = true);
                    Looks::End(k)
                }
                None => Looks::List,
            },
            Looks::End(k) => {
                st.pinners.iter_mut().for_each(|(_, over)| *over = true);
                st.pins[k] = Pin::Unpinned;
                Looks::Done
            }
            other => other,
        };
    }
}

impl Model for Rules {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            forgets: [Forget::No; ASKS],
            pins: [Pin::No; PINS],
            forgetters: [Forgets::ListForgets; 2],
            pinners: [(Pins::ListForgets, false); 2],
            settler: Looks::List,
            undoer: Looks::List,
            unpinner: Looks::List,
            event: None,
        }]
    }

    fn actions(&self, _: &State, out: &mut Vec<Action>) {
        out.extend([0, 1].map(Action::Forget));
        out.extend([0, 1].map(Action::Pin));
        out.extend([Action::Settle, Action::Undo, Action::Unpin]);
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut st = before.clone();
        st.event = None;
        match action {
            Action::Forget(i) => self.forget(&mut st, i),
            Action::Pin(i) => self.pin(&mut st, i),
            Action::Settle => self.settle(&mut st),
            Action::Undo => self.undo(&mut st),
            Action::Unpin => self.unpin(&mut st),
        }
        // They are alike.
        st.forgetters.sort_unstable();
        st.pinners.sort_unstable();
        (st != *before).then_some(st)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn has_ended(forgetter: &Forgets) -> bool {
            matches!(forgetter, Forgets::ListForgets | Forgets::Done)
        }
        let mut all = vec![
            Property::always(PINNED, |_, st: &State| !(st.is_pinned() && st.is_final())),
            Property::always(UNASKED, |_, st: &State| {
                !(st.is_pinned() && st.forgetters.iter().all(has_ended) && st.pending().is_some())
            }),
        ];
        all.extend([
            Property::sometimes(CASES[0], |_, st: &State| st.event == Some(CASES[0])),
            Property::sometimes(CASES[1], |_, st: &State| st.event == Some(CASES[1])),
            Property::sometimes(CASES[2], |_, st: &State| st.event == Some(CASES[2])),
            Property::sometimes(CASES[3], |_, st: &State| st.event == Some(CASES[3])),
            Property::sometimes(CASES[4], |_, st: &State| st.event == Some(CASES[4])),
            Property::sometimes(CASES[5], |_, st: &State| st.event == Some(CASES[5])),
            Property::sometimes(CASES[6], |_, st: &State| st.event == Some(CASES[6])),
            Property::sometimes(CASES[7], |_, st: &State| st.event == Some(CASES[7])),
        ]);
        all
    }
}
