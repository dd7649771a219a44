//! Trees on disk for the suites: random ones, changes to them, and a lister that shares no code with the product.

mod change;
mod lister;
mod random;

pub use change::change;
pub use lister::{Facts, Kind, Listing, assert_same, list};
pub use random::{flag, grow, set_attribute, set_times};
