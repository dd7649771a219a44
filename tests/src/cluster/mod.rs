//! A cluster in memory: an API server with the rules that the controller rests on, the controllers of Kubernetes and of
//! the CSI side as far as they touch our objects, an agent, and Velero. Everything is level-triggered and takes turns;
//! nothing runs by itself, so a run is the same every time.

mod agent;
mod behind;
mod clock;
pub mod invariants;
pub mod many;
pub mod real;
mod rules;
mod scene;
pub mod server;
mod snapshots;
mod volumes;
mod world;

pub use agent::AgentProcess;
pub(crate) use clock::now;
pub use scene::{BEFORE, DOWNLOAD, Scene, UPLOAD};
pub(crate) use server::merge;
pub use server::{Client, How, Server, Who};
pub use wherry_controller::observe::View as WorldView;
pub use world::{Content, Event, Outcome, Tamper, Trigger, World};
