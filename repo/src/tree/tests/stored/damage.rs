//! What is damaged, lost, or does not fit.

use super::*;

/// Changes a byte in the middle of every pack of nodes of a session.
fn damage_nodes(storage: &Watched, repository: &Repository, session: &SessionId) {
    for key in repository.list(keys::META).unwrap() {
        if keys::parse_pack(&key).unwrap().session == *session {
            let mut bytes = storage.get(&key).unwrap().to_vec();
            let end = bytes.len() / 3;
            bytes[64..end].iter_mut().for_each(|byte| *byte ^= 1);
            storage.overwrite(&key, bytes.into()).unwrap();
        }
    }
}

fn cold(repository: &Repository) -> Repository {
    Repository::open(repository.components().clone(), &password()).unwrap()
}

#[test]
fn a_damaged_node_is_damage_and_the_next_run_heals_it() {
    let (storage, _, repository) = repository();
    let (index, folder) = (index(), wide());
    let first = save(&repository, &folder, ParentChoice::None, &index, None);
    damage_nodes(&storage, &repository, &first.id);
    let repository = cold(&repository);
    let reader = TreeReader::open(&repository, &first).unwrap();
    assert_eq!(read_all(&reader).unwrap_err().kind(), ErrorKind::Corrupt);
    // What is whole can still be read.
    let What::Folder { below: Some(below), .. } = reader.root().what else { unreachable!() };
    assert!(reader.find(&below, b"02990").unwrap().is_some());
    // A writer has no parent where it is damaged, and writes that anew.
    let second = save(&repository, &folder, ParentChoice::Auto, &index, None);
    assert!(second.record.parent == Some(first.id) && second.record.root == first.record.root);
    assert!(read_all(&TreeReader::open(&repository, &second).unwrap()).unwrap() == folder);
    // Then the first one is read by id again (V3).
    let again = cold(&repository);
    assert!(read_all(&TreeReader::open(&again, &first).unwrap()).unwrap() == folder);
    assert!(again.found_elsewhere() > 0);
}

/// A whole pack of nodes stays in memory for long, however it came there.
#[test]
fn what_came_bad_into_memory_is_read_once_more() {
    let (storage, _, repository) = repository();
    let folder = wide();
    let snapshot = save(&repository, &folder, ParentChoice::None, &index(), None);
    let whole: Vec<_> =
        repository.list(keys::META).unwrap().into_iter().map(|key| (storage.get(&key).unwrap(), key)).collect();
    damage_nodes(&storage, &repository, &snapshot.id);
    let repository = cold(&repository);
    let reader = TreeReader::open(&repository, &snapshot).unwrap();
    let What::Folder { below: Some(below), .. } = reader.root().what else { unreachable!() };
    // The way there is whole, and the second node of it brings the pack.
    assert!(reader.find(&below, b"02990").unwrap().is_some());
    for (bytes, key) in whole {
        storage.overwrite(&key, bytes).unwrap();
    }
    assert!(read_all(&reader).unwrap() == folder);
    assert_eq!(repository.found_elsewhere(), 0);
}

#[test]
fn totals_that_do_not_add_up_are_damage() {
    let (_, _, repository) = repository();
    let snapshot = save(&repository, &wide(), ParentChoice::None, &index(), None);
    let reader = TreeReader::open(&repository, &snapshot).unwrap();
    let What::Folder { below: Some(below), .. } = reader.root().what else { unreachable!() };
    for change in [
        |below: &mut Below| below.entries += 1,
        |below: &mut Below| below.totals.below -= 1,
        |below: &mut Below| below.totals.folders += 1,
        |below: &mut Below| below.totals.bytes -= 1,
        |below: &mut Below| below.totals.missing += 1,
    ] {
        let mut wrong = below;
        change(&mut wrong);
        for result in [reader.find(&wrong, b"sub").map(drop), reader.list(&wrong, 0).map(drop)] {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
    let (_, Entry::Known(big)) = reader.find(&below, b"big").unwrap().unwrap() else { unreachable!() };
    let What::File { size, content } = &big.what else { unreachable!() };
    assert!(matches!(content, Content::List(_)));
    for wrong in [size - 1, size + 1] {
        assert_eq!(reader.pieces(wrong, content, 0).unwrap_err().kind(), ErrorKind::Corrupt);
    }
    // From any byte on, the part that holds it comes first.
    for from in [0, 1, 2999, 3000, 3001, 450_000, size - 1] {
        let span = reader.pieces(*size, content, from).unwrap().next().unwrap().unwrap();
        assert!((span.offset..span.offset + span.len).contains(&from), "{from}: {span:?}");
    }
    assert_eq!(reader.pieces(*size, content, *size).unwrap().count(), 0);
}

#[test]
fn what_leads_to_a_lost_pack_is_not_taken_over_unread() {
    let (storage, _, repository) = repository();
    let mut folder: Folder = [(b"big".to_vec(), Thing::Large(noise(1, 900_000)))].into();
    let one = save(&repository, &folder, ParentChoice::Auto, &index(), None);
    // A second pack, and a list of which most is the first run's.
    folder.insert(b"big".to_vec(), Thing::Large([noise(2, 3000), noise(1, 900_000)].concat()));
    folder.insert(b"few".to_vec(), Thing::Large(noise(3, 9000)));
    folder.insert(b"small".to_vec(), Thing::Small(noise(4, 900)));
    save(&repository, &folder, ParentChoice::Auto, &index(), None);
    let all = |repository: &Repository, index: &Arc<ChunkIndex>| {
        let writer = start(repository, "home", ParentChoice::Auto, index).unwrap();
        let tree = writer.parent().unwrap();
        let What::Folder { below: Some(below), .. } = tree.root().what else { unreachable!() };
        let keep = |name: &[u8]| {
            let (_, Entry::Known(known)) = tree.find(&below, name).unwrap().unwrap() else { unreachable!() };
            let What::File { size, content } = &known.what else { unreachable!() };
            let kept = writer.keep(&known).unwrap().map(|kept| kept.into_content());
            (kept.as_ref().map(|kept| kept == content), kept.map(|kept| (*size, kept)))
        };
        let found: Vec<_> = [&b"big"[..], b"few", b"small"].into_iter().map(|name| keep(name).0).collect();
        let big = keep(b"big").1;
        writer.abandon().unwrap();
        (found, big)
    };
    assert_eq!(all(&repository, &index()).0, [Some(true), Some(true), Some(true)]);
    // The first run's chunks are gone.
    let mut gone = Vec::new();
    for key in repository.list(keys::PACKS).unwrap() {
        if keys::parse_pack(&key).unwrap().session == one.id {
            gone.push((key.clone(), storage.get(&key).unwrap()));
            storage.delete(&key).unwrap();
        }
    }
    assert!(!gone.is_empty());
    assert_eq!(all(&repository, &index()).0, [None, Some(true), Some(true)]);
    // Somebody else has them: then they are hits (D2), under the same ids.
    let other = index();
    save(&repository, &[(b"x".to_vec(), Thing::Large(noise(1, 900_000)))].into(), ParentChoice::None, &other, None);
    let choice = repository.snapshots(None).unwrap().snapshots[1].id;
    let writer = start(&repository, "home", ParentChoice::Snapshot(choice), &other).unwrap();
    let tree = writer.parent().unwrap();
    let What::Folder { below: Some(below), .. } = tree.root().what else { unreachable!() };
    let (_, Entry::Known(known)) = tree.find(&below, b"big").unwrap().unwrap() else { unreachable!() };
    let What::File { size, content } = &known.what else { unreachable!() };
    let kept = writer.keep(&known).unwrap().unwrap().into_content();
    assert_ne!(kept, *content);
    let (Content::List(new), Content::List(old)) = (&kept, content) else { unreachable!() };
    assert_eq!(new.to.id, old.to.id, "only hints are others");
    let mut builder = writer.folder(Some(&below));
    builder.push(entry(b"big", What::File { size: *size, content: kept })).unwrap();
    let below = builder.finish().unwrap();
    let healed = writer.commit(root(below), CommitInfo::default(), TreeInfo::default()).unwrap();
    let want: Folder = [(b"big".to_vec(), folder[&b"big"[..]].clone())].into();
    assert!(read_all(&TreeReader::open(&cold(&repository), &healed).unwrap()).unwrap() == want);
    assert!(repository.found_elsewhere() == 0, "its own hints are right");
}

#[test]
fn long_attributes_are_a_chunk() {
    let (_, _, repository) = repository();
    let writer = start(&repository, "home", ParentChoice::Auto, &index()).unwrap();
    let mut scratch = writer.scratch(1 << 20).unwrap();
    let set =
        |len: usize, count: u8| Set((0..count).map(|n| (vec![b'u', b'.', b'a' + n], noise(n.into(), len))).collect());
    assert_eq!(writer.extended(&mut scratch, Set::default(), None).unwrap(), Some(Extended::None));
    assert_eq!(writer.extended(&mut scratch, set(100, 2), None).unwrap(), Some(Extended::Here(set(100, 2))));
    assert_eq!(writer.extended(&mut scratch, set(60_000, 20), None).unwrap(), None, "more than a tree takes");
    let Some(Extended::Chunk(chunk)) = writer.extended(&mut scratch, set(2000, 2), None).unwrap() else { panic!() };
    let mut builder = writer.folder(None);
    let Entry::Known(mut known) = entry(b"a", What::Fifo) else { unreachable!() };
    known.attributes =
        Arc::new(crate::format::tree::Attributes { extended: Extended::Chunk(chunk), ..(*attributes()).clone() });
    builder.push(Entry::Known(known.clone())).unwrap();
    let below = builder.finish().unwrap();
    let snapshot = writer.commit(root(below), CommitInfo::default(), TreeInfo::default()).unwrap();
    assert_eq!(snapshot.record.stats.read, 0, "they are no bytes of files");
    let reader = TreeReader::open(&repository, &snapshot).unwrap();
    let read = reader.chunks().read_chunk(&reader.set(&chunk)).unwrap();
    assert_eq!(Set::decode(read.as_ref()).unwrap(), set(2000, 2));
    // The next run knows it.
    let writer = start(&repository, "home", ParentChoice::Auto, &index()).unwrap();
    let kept = writer.kept_pieces(&known).unwrap();
    assert_eq!(
        writer.put(&mut scratch, crate::format::tree::ATTRIBUTES, read.as_ref(), Some(&kept)).unwrap(),
        (chunk, Put::Unchanged)
    );
    for (class, plain) in [(PIECE, &[][..]), (SHARED, &vec![1; (256 << 10) + 1]), (18, &[1]), (FOLDER, &[1])] {
        let writer = start(&repository, "other", ParentChoice::None, &index()).unwrap();
        assert_eq!(writer.put(&mut scratch, class, plain, None).unwrap_err().kind(), ErrorKind::Internal);
        assert!(writer.commit(root(None), CommitInfo::default(), TreeInfo::default()).is_err(), "nothing is committed");
    }
}
