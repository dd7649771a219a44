//! Names of one inode: the first one in the order of the walk is read, the others say the same.

use super::read::Stamp;
use crate::tree::attributes::{Device, Look};
use std::collections::HashMap;
use wherry_repo::format::tree::{Attributes, Content, Extended, Known, Piece, Time, What};

/// What one inode takes beside its entry (bytes).
const EACH: usize = 48;

/// An inode: the filesystem it is on, its number there, and when it was made, where that is known.
pub(super) type InodeKey = (Device, u64, Option<Time>);

/// What another name of an inode is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Followed {
    /// It says what the first name said.
    Same(Box<Known>),
    /// The first name went, or could not be read: this one is read in its place.
    First,
    /// It may be of another inode by now: it is read for itself.
    Other,
}

/// Where an inode stands.
#[derive(Debug, Default)]
struct State {
    /// Names that were not met yet.
    unmet: u64,
    /// Names that were met and wait for what the first one says.
    waiting: u64,
    /// What the first name said.
    known: Option<Box<Known>>,
}

/// Inodes with several names, of which not all were seen.
#[derive(Debug)]
pub(super) struct Links {
    /// Where inodes are.
    pub(super) devices: Devices,
    inodes: HashMap<InodeKey, State>,
    bytes: usize,
    most: usize,
}

impl Links {
    /// None yet. About `most` bytes are taken by inodes whose other names are still to come; beyond, a file is read again.
    pub(super) fn new(most: usize) -> Self {
        Self { devices: Devices::default(), inodes: HashMap::new(), bytes: 0, most }
    }

    /// Meets a name of an inode with so many names. True when it is the first one and is to be read; false when it says what
    /// the first one says: then it has to [`follow`](Self::follow).
    pub(super) fn meet(&mut self, inode: InodeKey, names: u64) -> bool {
        if let Some(state) = self.inodes.get_mut(&inode) {
            // A name beyond those that were counted is read for itself.
            let counted = state.unmet > 0;
            if counted {
                state.unmet -= 1;
                state.waiting += 1;
            }
            return !counted;
        }
        if self.bytes < self.most {
            self.bytes += EACH;
            self.inodes.insert(inode, State { unmet: names.saturating_sub(1), ..State::default() });
        }
        true
    }

    /// The first name is decided.
    pub(super) fn decide(&mut self, inode: InodeKey, known: &Known) {
        if let Some(state) = self.inodes.get_mut(&inode).filter(|state| state.known.is_none()) {
            self.bytes += weight(known);
            state.known = Some(Box::new(known.clone()));
            self.leave(inode);
        }
    }

    /// What the first name said, for another one that was met and is a file `like` this.
    pub(super) fn follow(&mut self, inode: InodeKey, name: &[u8], like: &Stamp) -> Followed {
        let Some(state) = self.inodes.get_mut(&inode) else { return Followed::First };
        state.waiting = state.waiting.saturating_sub(1);
        let followed = match state.known.as_deref() {
            None => Followed::First,
            // A number is given anew when all names have gone, and not all of them need to be in the tree.
            Some(first) if inode.2.is_none() && Stamp::known(first) != Some(*like) => Followed::Other,
            Some(first) => Followed::Same(Box::new(Known { name: name.to_vec(), ..first.clone() })),
        };
        self.leave(inode);
        followed
    }

    /// Lets go of an inode of which nothing more is expected.
    fn leave(&mut self, inode: InodeKey) {
        if let Some(state) = self.inodes.get(&inode)
            && (state.unmet, state.waiting) == (0, 0)
        {
            self.bytes -= EACH + state.known.as_deref().map_or(0, weight);
            self.inodes.remove(&inode);
        }
    }
}

/// Bits of an inode number that tell devices apart.
const TAG: u32 = 12;

/// Devices of inodes with several names. An overlay shows files with the numbers of its layers, which may lie on several
/// filesystems: in the tree of one snapshot two inodes would have one number. All but those on the device of a directory
/// get another number, with that of the device, in the order they are met, in its highest bits.
#[derive(Debug, Default)]
pub(super) struct Devices {
    tags: HashMap<Device, u64>,
    met: u64,
}

impl Devices {
    /// A directory is on this one: numbers of inodes on it stay as they are.
    pub(super) fn folder(&mut self, device: Device) {
        self.tags.entry(device).or_default();
    }

    /// The number under which an inode is known in the tree; `None`: there is none by which its names could be told.
    pub(super) fn number(&mut self, look: &Look) -> Option<u64> {
        let tag = *self.tags.entry(look.device).or_insert_with(|| {
            self.met += 1;
            self.met
        });
        let room = u64::BITS - TAG;
        let fits = tag == 0 || (tag >> TAG == 0 && look.inode.number >> room == 0);
        fits.then_some(tag << room | look.inode.number)
    }
}

/// What an entry takes (bytes). Attributes that others have too are counted for each.
fn weight(known: &Known) -> usize {
    let pieces = match &known.what {
        What::File { content: Content::Pieces(pieces), .. } => pieces.len() * size_of::<Piece>(),
        _ => 0,
    };
    let attributes = &known.attributes;
    let set = match &attributes.extended {
        Extended::Here(set) => set.0.iter().map(|(name, value)| 48 + name.len() + value.len()).sum(),
        _ => 0,
    };
    let names = known.name.len() + attributes.owner_name.len() + attributes.group_name.len();
    size_of::<Known>() + size_of::<Attributes>() + pieces + names + set
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::inode::{Inode, InodeKind};
    use std::sync::Arc;
    use wherry_repo::format::tree::{InodeFlags, Set};

    fn look(device: Device, number: u64) -> Look {
        let inode = Inode {
            kind: InodeKind::File,
            permissions: 0o644,
            owner: 0,
            group: 0,
            flags: InodeFlags::default(),
            extended: Set::default(),
            modified: Time::default(),
            changed: Time::default(),
            number,
            links: 2,
            size: 0,
            allocated: 0,
        };
        Look { inode, missing: None, device, born: None, mounted: false, automount: false }
    }

    fn known(name: &str) -> Known {
        let attributes = Attributes {
            permissions: 0o644,
            owner: 0,
            group: 0,
            owner_name: Vec::new(),
            group_name: Vec::new(),
            flags: InodeFlags::default(),
            extended: Extended::None,
        };
        Known {
            name: name.into(),
            attributes: Arc::new(attributes),
            modified: Time::default(),
            changed: Time::default(),
            inode: 7,
            links: None,
            missing: None,
            unsettled: false,
            what: What::File { size: 0, content: Content::Nothing },
        }
    }

    #[test]
    fn the_first_name_speaks_for_the_others_until_all_were_met() {
        let mut links = Links::new(1 << 20);
        let like = Stamp::default();
        assert!(links.meet(((0, 1), 7, None), 3));
        assert!(!links.meet(((0, 1), 7, None), 3), "before the first one is decided");
        assert!(links.meet(((0, 2), 7, None), 2), "another filesystem");
        assert_eq!(links.follow(((0, 1), 7, None), b"b", &like), Followed::First, "not decided yet");
        links.decide(((0, 1), 7, None), &known("a"));
        let Followed::Same(same) = links.follow(((0, 1), 7, None), b"b", &like) else { panic!() };
        assert_eq!(same.name, b"b");
        assert!(!links.meet(((0, 1), 7, None), 3));
        assert!(links.meet(((0, 4), 7, None), 2) && !links.meet(((0, 4), 7, None), 2));
        assert_eq!(
            links.follow(((0, 4), 7, None), b"b", &like),
            Followed::First,
            "the first one went, and nothing is expected any more"
        );
        assert!(links.meet(((0, 4), 7, None), 1));
        let other = Stamp { size: 1, ..like };
        assert_eq!(
            links.follow(((0, 1), 7, None), b"x", &other),
            Followed::Other,
            "another file has the number by now"
        );
        assert!(links.meet(((0, 3), 7, None), 2) && !links.meet(((0, 3), 7, None), 2));
        assert!(links.meet(((0, 3), 7, None), 3), "a name that came later is read for itself");
        links.decide(((0, 3), 7, None), &known("a"));
        assert_eq!(links.follow(((0, 3), 7, None), b"c", &like), Followed::Same(Box::new(known("c"))));
        let born = ((0, 5), 7, Some(Time::default()));
        assert!(links.meet(born, 2) && !links.meet(born, 2));
        links.decide(born, &known("a"));
        let same = Followed::Same(Box::new(known("c")));
        assert_eq!(links.follow(born, b"c", &other), same, "it changed meanwhile, and is the same by its birth");
        assert_eq!(links.inodes.len(), 2, "those of which another name, or the first, is still to come");
        assert!(links.meet(((0, 1), 7, None), 3), "as if never seen");
    }

    #[test]
    fn numbers_of_two_devices_are_told_apart() {
        let mut devices = Devices::default();
        devices.folder((0, 1));
        let mut of = |device, number| devices.number(&look((0, device), number));
        assert_eq!(of(1, u64::MAX), Some(u64::MAX), "beside its directory");
        assert_eq!([of(8, 7), of(9, 7), of(8, 7), of(1, 7)], [1 << 52 | 7, 2 << 52 | 7, 1 << 52 | 7, 7].map(Some));
        assert_eq!((of(8, 1 << 52), of(9, (1 << 52) - 1)), (None, Some((3 << 52) - 1)));
        (10..4103).for_each(|device| assert!(of(device, 7).is_some()));
        assert_eq!((of(4103, 7), of(4102, 7)), (None, Some(4095 << 52 | 7)), "there are no more numbers");
    }

    #[test]
    fn memory_is_bounded() {
        let most = 13 << 20;
        let mut links = Links::new(most);
        for n in 0..1_000_000 {
            assert!(links.meet(((0, 1), n, None), 2));
            links.decide(((0, 1), n, None), &known("a"));
        }
        assert!(links.bytes <= most + EACH + weight(&known("a")));
        assert!(links.inodes.len() > 30_000, "{}", links.inodes.len());
    }

    #[test]
    fn what_an_entry_takes_besides_itself_is_counted_and_given_back() {
        let piece = Piece::Hole(1);
        let mut long = known("a");
        long.what = What::File { size: 32, content: Content::Pieces(vec![piece; 32]) };
        let mut attributes = (*long.attributes).clone();
        attributes.extended = Extended::Here(Set(vec![(b"user.x".to_vec(), vec![7; 200])]));
        long.attributes = Arc::new(attributes);
        assert!(weight(&long) >= weight(&known("a")) + 32 * size_of::<Piece>() + 206);
        let most = 1 << 20;
        let mut links = Links::new(most);
        for n in 0..10_000 {
            links.meet(((0, 1), n, None), 2);
            links.decide(((0, 1), n, None), &long);
        }
        assert!(links.bytes <= most + EACH + weight(&long));
        assert!(links.inodes.len() * (32 * size_of::<Piece>() + 206) <= most, "{}", links.inodes.len());
        for n in 0..10_000 {
            if !links.meet(((0, 1), n, None), 2) {
                links.follow(((0, 1), n, None), b"b", &Stamp::known(&long).unwrap());
            }
        }
        let left: usize = links.inodes.values().map(|state| EACH + state.known.as_deref().map_or(0, weight)).sum();
        assert_eq!(links.bytes, left);
    }
}
