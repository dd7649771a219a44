//! Where nodes end. By content, never by position: the same names always make the same nodes, and one name more or less
//! changes one node a level.

use crate::format::tree::MAX_FANOUT;

/// From so many on a node may end.
const LEAST: usize = 16;
/// A node ends after what is marked by a byte below this: one of 64.
const MARK: u8 = 4;

/// True when a node ends after its entry, child or piece number `count` (counted from 1), which `byte` marks or not.
pub(crate) fn ends(count: usize, byte: Option<u8>) -> bool {
    count >= MAX_FANOUT || count >= LEAST && byte.is_some_and(|byte| byte < MARK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_ends_at_a_mark_from_the_16th_on_and_at_256() {
        for (count, byte, want) in [
            (1, Some(0), false),
            (15, Some(0), false),
            (16, Some(0), true),
            (16, Some(3), true),
            (16, Some(4), false),
            (16, None, false),
            (255, Some(4), false),
            (255, None, false),
            (256, Some(255), true),
            (256, None, true),
        ] {
            assert_eq!(ends(count, byte), want, "{count} {byte:?}");
        }
    }
}
