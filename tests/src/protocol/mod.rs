//! A model of the protocol of `repo/docs/concurrency.md`: sessions, adoption, forget, undo, Final, collectors, readers.
//!
//! One action is one storage operation or one decision of a writer. Worst cases stand in for what is left out:
//! - A hit may name any pack that ever existed and is not barred, so caches, segments and checkpoints are as stale as can be.
//! - A parent may be any snapshot that was ever committed: the choice is as old as can be.
//! - There is no time. Whatever may happen when somebody waited long enough may happen at once: any session may be taken
//!   for silent or dead and be fenced or adopted while it lives, any asked forget may become Final.
//! - An actor that stalls or dies takes no more steps. A request that arrives late is the step of an actor that stalled.
//!   A collector that crashes also starts again without memory.
//!
//! What create-if-absent with lost replies and late requests decides is modelled apart, in [`create`].

mod actions;
mod cases;
mod collector;
pub mod create;
pub mod pins;
mod rules;
mod search;
pub mod state;
pub mod walk;
mod writer;

pub use actions::{ALWAYS, Action, Bounds, LOST, Protocol, Second, TWICE, UNSERVED};
pub use cases::{CASES, Event};
pub use rules::Rules;
pub use search::{Found, search};
pub use state::State;
