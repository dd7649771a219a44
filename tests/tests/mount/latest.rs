//! `latest` of a volume of which a host has made a snapshot whose clock was ahead.

use super::*;
use std::sync::Arc;
use wherry_repo::storage::Local;
use wherry_repo::{Components, Credential, Repository, System};
use wherry_tests::small::{Ahead, backup, components};

#[test]
fn latest_leads_nowhere_while_two_could_be_it_and_the_log_names_both() {
    let place = Place::new();
    let key = fs::read_to_string(place.path("key")).unwrap().trim().as_bytes().to_vec();
    let storage = Arc::new(Local::new(place.path("repo"), false));
    let clock = Arc::new(Ahead(365 * 86_400 * 1_000_000_000));
    let parts = Components { clock, rng: Arc::new(System::default()), ..components(storage) };
    let repository = Repository::open(parts, &Credential::KeyFile(key.into())).unwrap();
    let ahead = backup(&repository, "vm", &[1]).unwrap().id.to_string();
    let right = place.backup("vm", &[2]);
    let mount = place.mount_here();
    let link = mount.mnt.join("by-volume/vm/latest");
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("latest-is-not-certain"));
    assert_eq!(fs::read(latest(&mount.mnt, "vm")).unwrap_err().kind(), io::ErrorKind::NotFound);
    for (id, content) in [(&ahead, 1), (&right, 2)] {
        assert_eq!(fs::read(mount.mnt.join("by-id").join(id).join("disk.raw")).unwrap(), [content]);
    }
    let line = mount.says("leads nowhere");
    assert!(line.contains(&ahead) && line.contains(&right), "{line}");
    drop(mount);
    // Alone it is shown as any other.
    let mount = place.mount(&[&right]);
    assert_eq!(fs::read(latest(&mount.mnt, "vm")).unwrap(), [2]);
}
