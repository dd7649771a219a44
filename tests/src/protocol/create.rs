//! Create-if-absent when replies are lost and requests arrive late (rules N2 and N3): what a client tells its caller is
//! true for ever. Pack uploads, commits, fences, settled records, lists and delete sets all rest on this.

use stateright::{Model, Property};

/// Clients that want to create the same key.
pub const CLIENTS: usize = 3;
/// Requests a client sends at most.
const ATTEMPTS: u8 = 2;

/// The steps of N2 and N3: true is the protocol, false a mutant.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// "The key exists" is followed by a look whose bytes are there; without: it is taken for defeat.
    pub conflict_is_compared: bool,
    /// An unclear outcome is followed by a look; without: it is taken for success.
    pub unclear_is_read: bool,
    /// Not found decides nothing; without: it is taken for defeat.
    pub absent_decides_nothing: bool,
    /// A retry sends the same bytes; without: other ones.
    pub same_bytes_again: bool,
    /// Who gives up creates a Fence; without: it just says that it has failed.
    pub giving_up_fences: bool,
}

impl Rules {
    /// The protocol as it stands.
    pub const PROTOCOL: Self = Self {
        conflict_is_compared: true,
        unclear_is_read: true,
        absent_decides_nothing: true,
        same_bytes_again: true,
        giving_up_fences: true,
    };
}

/// The content of an object: who wrote it, and what.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Body {
    /// The client.
    pub by: u8,
    /// A Fence instead of what the client wanted.
    pub fence: bool,
    /// Which one of several, where a mutant sends different ones.
    pub nonce: u8,
}

/// What a client knows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Client {
    /// About to send this.
    Sending(Body),
    /// Waits for a reply.
    Waiting(Body),
    /// The key exists, or nobody knows: about to look.
    Looking(Body),
    /// Told its caller that the object is its own.
    Won,
    /// Told its caller that it is not, and never will be.
    Lost,
}

/// The key, the requests under way, the clients.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    key: Option<Body>,
    under_way: Vec<Body>,
    clients: [Client; CLIENTS],
    sent: [u8; CLIENTS],
}

/// A client, the storage or the network does something.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "the client's step, or what becomes of a request and its reply")]
pub enum Action {
    Send(usize),
    TimeOut(usize),
    Look(usize),
    GiveUp(usize),
    Arrive { body: Body, reply_lost: bool },
    Vanish(Body),
}

/// The property.
pub const TRUE: &str = "what callers were told is true";

impl Model for Rules {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let client = |by| Client::Sending(Body { by, fence: false, nonce: 0 });
        vec![State { key: None, under_way: vec![], clients: [client(0), client(1), client(2)], sent: [0; CLIENTS] }]
    }

    fn actions(&self, st: &State, out: &mut Vec<Action>) {
        for (i, client) in st.clients.iter().enumerate() {
            match client {
                Client::Sending(_) if st.sent[i] < ATTEMPTS => out.push(Action::Send(i)),
                Client::Waiting(_) => out.push(Action::TimeOut(i)),
                Client::Looking(_) => out.push(Action::Look(i)),
                _ => {}
            }
            if matches!(client, Client::Sending(body) if !body.fence && st.sent[i] > 0) {
                out.push(Action::GiveUp(i));
            }
        }
        for body in &st.under_way {
            out.extend([false, true].map(|reply_lost| Action::Arrive { body: *body, reply_lost }));
            out.push(Action::Vanish(*body));
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut st = before.clone();
        match action {
            Action::Send(i) => {
                let Client::Sending(mut body) = st.clients[i] else { return None };
                if !self.same_bytes_again {
                    body.nonce = st.sent[i];
                }
                st.sent[i] += 1;
                st.clients[i] = Client::Waiting(body);
                st.under_way.push(body);
                st.under_way.sort_unstable_by_key(|b| (b.by, b.fence, b.nonce));
            }
            Action::TimeOut(i) => {
                let Client::Waiting(body) = st.clients[i] else { return None };
                st.clients[i] = if self.unclear_is_read { Client::Looking(body) } else { Client::Won };
            }
            Action::Look(i) => {
                let Client::Looking(body) = st.clients[i] else { return None };
                st.clients[i] = match st.key {
                    Some(found) if found == body => {
                        if body.fence {
                            Client::Lost
                        } else {
                            Client::Won
                        }
                    }
                    // Its own first wish, found by one that was about to give up.
                    Some(found) if body.fence && found == (Body { fence: false, ..body }) => Client::Won,
                    Some(_) => Client::Lost,
                    None if self.absent_decides_nothing => Client::Sending(body),
                    None => Client::Lost,
                };
            }
            Action::GiveUp(i) => {
                let Client::Sending(body) = st.clients[i] else { return None };
                let fence = Body { fence: true, ..body };
                st.clients[i] = if self.giving_up_fences { Client::Sending(fence) } else { Client::Lost };
            }
            Action::Arrive { body, reply_lost } => {
                let place = st.under_way.iter().position(|b| *b == body)?;
                st.under_way.remove(place);
                let created = st.key.is_none();
                if created {
                    st.key = Some(body);
                }
                let i = usize::from(body.by);
                if !reply_lost && st.clients[i] == Client::Waiting(body) {
                    st.clients[i] = match created {
                        true if body.fence => Client::Lost,
                        true => Client::Won,
                        false if self.conflict_is_compared => Client::Looking(body),
                        false => Client::Lost,
                    };
                }
            }
            Action::Vanish(body) => {
                let place = st.under_way.iter().position(|b| *b == body)?;
                st.under_way.remove(place);
            }
        }
        Some(st)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn own(st: &State, i: usize) -> bool {
            st.key.is_some_and(|body| usize::from(body.by) == i && !body.fence)
        }
        vec![
            Property::always(TRUE, |_, st: &State| {
                st.clients.iter().enumerate().all(|(i, client)| match client {
                    Client::Won => own(st, i),
                    Client::Lost => !own(st, i),
                    _ => true,
                })
            }),
            Property::sometimes("won", |_, st: &State| st.clients.contains(&Client::Won)),
            Property::sometimes("won by a request thought lost", |_, st: &State| {
                (0..CLIENTS).any(|i| own(st, i) && matches!(st.clients[i], Client::Sending(_)))
            }),
            Property::sometimes("gave up, yet had won", |_, st: &State| {
                (0..CLIENTS).any(|i| own(st, i) && matches!(st.clients[i], Client::Looking(body) if body.fence))
            }),
            Property::sometimes("all have failed", |_, st: &State| st.clients.iter().all(|c| *c == Client::Lost)),
        ]
    }
}
