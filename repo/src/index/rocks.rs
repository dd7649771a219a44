//! The index in a RocksDB database. What the bytes mean is said in the module's head.

use super::options::{self, max_disk, sampled};
use super::place::{Lock, Place};
use super::row::{self, Copy, Pack, Row};
use super::values::{
    MAX_SAMPLING, NUMBERS, SAMPLING, STAMP, Sampling, TAKEN, VERSION, covered_key, merge, next_after, number_in,
    number_key, number_value, numbered, pack_in, pack_key, pack_value, row_key, stamp, stamp_in,
};
use super::{IndexOptions, IndexStats, Opened};
use crate::{Error, ErrorKind, Location, PackId, RepositoryId, Result, ShortId};
use parking_lot::{Mutex, RwLock};
use rocksdb::{BottommostLevelCompaction, CompactOptions, DB, Direction, IteratorMode, WriteBatch, WriteOptions};
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

/// Packs that [`Rocks::lookup`] remembers, so that a hit is one read of the database.
const PACKS_REMEMBERED: usize = 4096;

#[derive(Debug)]
pub(super) struct Rocks {
    db: Arc<DB>,
    writer: Mutex<Writer>,
    packs: RwLock<HashMap<u32, Pack>>,
    sampling: Arc<AtomicU32>,
    max_disk: u64,
    place: Place,
    /// Last: let go when the database is closed.
    _lock: Lock,
}

/// What only the one inserting thread touches.
#[derive(Debug, Default)]
struct Writer {
    next_pack: u32,
    /// Drops the rows that are no longer kept.
    trim: Option<JoinHandle<()>>,
}

/// A database that was there and is sound as far as opening tells.
struct Existing {
    db: DB,
    next_pack: u32,
    kept: Sampling,
}

pub(super) fn destroy(dir: &Path, repository: &RepositoryId) -> Result<()> {
    let place = Place::new(dir, repository, 0);
    if !place.folder.exists() {
        return Ok(());
    }
    let _lock = place.lock()?;
    place.remove_database()
}

impl Rocks {
    pub(super) fn open(options: &IndexOptions) -> Result<(Self, Opened)> {
        let place = Place::new(&options.dir, &options.repository, options::room_wanted(options));
        let lock = place.lock()?;
        let sampling = Arc::new(AtomicU32::new(0));
        let mut db_options = options::database(options, Arc::clone(&sampling));

        let mut opened = Opened::Fresh;
        if let Ok(why) = fs::read(place.damaged()).map(|why| String::from_utf8_lossy(&why).into_owned()) {
            opened = Opened::Dropped(format!("damage was found while it was in use: {}", why.trim()));
        } else if !place.is_empty()? {
            match Self::open_existing(&db_options, &place, &options.repository) {
                Ok(Existing { db, next_pack, kept }) => {
                    sampling.store(kept.bits, Ordering::Release);
                    let index = Self::new(db, next_pack, sampling, options, place, lock);
                    if !kept.trimmed {
                        index.start_trim(&mut index.writer.lock());
                    }
                    return Ok((index, Opened::Reused));
                }
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => {
                    opened = Opened::Dropped(error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        place.remove_database()?;
        db_options.create_if_missing(true);
        let db = DB::open(&db_options, place.database()).map_err(|e| place.db_error(&e))?;
        db.put_opt(STAMP, stamp(&options.repository), &write_options())
            .and_then(|()| db.flush())
            .map_err(|e| place.db_error(&e))?;
        Ok((Self::new(db, 0, sampling, options, place, lock), opened))
    }

    /// `Corrupt` or `Unsupported`: drop it. Other errors: it may be sound, but cannot be used now.
    fn open_existing(options: &rocksdb::Options, place: &Place, repository: &RepositoryId) -> Result<Existing> {
        let failed = |e: rocksdb::Error| place.db_error(&e);
        let db = DB::open(options, place.database()).map_err(failed)?;
        let stored = db.get(STAMP).map_err(failed)?;
        match stored.as_deref().and_then(stamp_in) {
            None => return Err(Error::corrupt("it does not say what it is")),
            Some((version, _)) if version != VERSION => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("it has version {version}, this wherry uses {VERSION}"),
                ));
            }
            Some((_, uuid)) if uuid != repository.bytes() => {
                let whose = crate::id::hex(uuid);
                return Err(Error::corrupt(format!("it belongs to another repository ({whose})")));
            }
            Some(_) => {}
        }
        let sampling = match db.get(SAMPLING).map_err(failed)? {
            None => Some(Sampling { bits: 0, trimmed: true }),
            Some(value) => Sampling::decode(&value),
        };
        let kept = sampling.ok_or_else(|| Error::corrupt("its note on sampling is damaged"))?;
        Ok(Existing { next_pack: next_pack(&db).map_err(failed)?, db, kept })
    }

    fn new(db: DB, next_pack: u32, sampling: Arc<AtomicU32>, options: &IndexOptions, place: Place, lock: Lock) -> Self {
        Self {
            db: Arc::new(db),
            writer: Mutex::new(Writer { next_pack, trim: None }),
            packs: RwLock::default(),
            sampling,
            max_disk: max_disk(options),
            place,
            _lock: lock,
        }
    }

    pub(super) fn lookup(&self, id: &ShortId) -> Result<Vec<Location>> {
        let Some(value) = self.db.get_pinned(row_key(id)).map_err(|e| self.error(&e))? else {
            return Ok(Vec::new());
        };
        let copies = row::copies(&value).ok_or_else(|| self.damaged("a row has an impossible length"))?;
        let mut found = Vec::with_capacity(copies.len());
        for raw in copies {
            let (copy, check) = Copy::decode(raw);
            let pack = self.pack(copy.pack)?;
            let location = copy.verify(check, id, &pack);
            found.push(location.ok_or_else(|| self.damaged("a row does not pass its check"))?);
        }
        Ok(found)
    }

    pub(super) fn insert(&self, id: &PackId, epoch: u32, rows: &[Row]) -> Result<()> {
        let mut writer = self.writer.lock();
        if !self.has_room(&mut writer)? {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        let known = self.number(id)?;
        let pack = match known {
            Some(number) => self.pack(number)?,
            None => Pack { number: writer.next_pack, id: *id, epoch },
        };
        if pack.epoch != epoch {
            return Err(Error::invalid(format!(
                "pack {id:?} was taken into the index with key epoch {}, now {epoch} is claimed",
                pack.epoch
            )));
        }
        if known.is_none() {
            let (key, number_key) = (pack_key(pack.number), number_key(id));
            batch.put(key, pack_value(&key, &pack));
            batch.put(number_key, number_value(&number_key, pack.number));
        }
        self.add_rows(&mut batch, &pack, rows)?;
        if !batch.is_empty() {
            self.write(batch.data())?;
        }
        if known.is_none() {
            // 2^32 packs are 128 PiB; past them the last number would be given out twice.
            let next = pack.number.checked_add(1);
            writer.next_pack = next.ok_or_else(|| self.damaged("no pack numbers are left"))?;
        }
        Ok(())
    }

    fn add_rows(&self, batch: &mut WriteBatch, pack: &Pack, rows: &[Row]) -> Result<()> {
        let sampling = self.sampling.load(Ordering::Acquire);
        let mut rows: Vec<&Row> = rows.iter().filter(|r| sampled(r.id.bytes(), sampling)).collect();
        rows.sort_by_key(|r| r.id);
        for (i, row) in rows.iter().enumerate() {
            if rows.get(i + 1).is_some_and(|next| next.id == row.id) {
                continue;
            }
            let key = row_key(&row.id);
            let copy = row.copy_in(pack.number)?.encode(&row.id, pack);
            match self.db.get_pinned(key).map_err(|e| self.error(&e))? {
                None => batch.put(key, copy),
                Some(value) => {
                    let old = row::copies(&value).ok_or_else(|| self.damaged("a row has an impossible length"))?;
                    if let Some(new) = merge(old, copy) {
                        batch.put(key, new.as_flattened());
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn covered_pack(&self, id: &PackId) -> Result<bool> {
        Ok(self.number(id)?.is_some())
    }

    pub(super) fn is_covered(&self, segment: &str) -> Result<bool> {
        let key = covered_key(segment);
        match self.db.get_pinned(&key).map_err(|e| self.error(&e))? {
            None => Ok(false),
            Some(value) if row::unchecked(&key, &value).is_some() => Ok(true),
            Some(_) => Err(self.damaged("a covered segment does not pass its check")),
        }
    }

    pub(super) fn cover(&self, segment: &str) -> Result<()> {
        // The lock: so that no insert that was called before comes after.
        let mut writer = self.writer.lock();
        if !self.has_room(&mut writer)? {
            return Ok(());
        }
        let key = covered_key(segment);
        let mut batch = WriteBatch::default();
        batch.put(&key, row::checked(&key, &[]));
        self.write(batch.data())
    }

    /// Writes a batch, and again when the database had to catch up just then.
    fn write(&self, batch: &[u8]) -> Result<()> {
        for _ in 0..24_000 {
            self.wait_for_room()?;
            match self.db.write_opt(WriteBatch::from_data(batch), &write_options()) {
                Err(e) if e.as_ref().contains("Write stall") => {
                    self.place.check_space()?;
                    std::thread::sleep(STEP);
                }
                result => return result.map_err(|e| self.error(&e)),
            }
        }
        // No error was reported, and still it does not get on: a flush found no room and is tried again and again.
        Err(self.place.full("it does not get on"))
    }

    pub(super) fn flush(&self) -> Result<()> {
        // After an error in the background, such as a full disk, a flush would wait until somebody makes room.
        self.place.check_space()?;
        self.wait_for_room()?;
        self.db.flush().map_err(|e| self.error(&e))
    }

    pub(super) fn stats(&self) -> IndexStats {
        let keys = self.property(rocksdb::properties::ESTIMATE_NUM_KEYS);
        let packs = u64::from(self.writer.lock().next_pack);
        IndexStats {
            rows: keys.saturating_sub(2 * packs + 1),
            disk: self.property(rocksdb::properties::TOTAL_SST_FILES_SIZE),
            sampling: self.sampling.load(Ordering::Acquire),
        }
    }

    /// Leaves a note that makes the next [`Rocks::open`] drop the database. That it cannot be left is no new trouble:
    /// then the damage is found again.
    pub(super) fn mark_damaged(&self, error: &Error) {
        if let Err(e) = fs::write(self.place.damaged(), error.to_string()) {
            tracing::debug!("{}: {e}", self.place.damaged().display());
        }
    }

    fn number(&self, id: &PackId) -> Result<Option<u32>> {
        let key = number_key(id);
        let Some(value) = self.db.get_pinned(key).map_err(|e| self.error(&e))? else { return Ok(None) };
        let number = number_in(&key, &value);
        number.map(Some).ok_or_else(|| self.damaged("a pack's number does not pass its check"))
    }

    fn pack(&self, number: u32) -> Result<Pack> {
        if let Some(pack) = self.packs.read().get(&number) {
            return Ok(*pack);
        }
        let key = pack_key(number);
        let value = self.db.get_pinned(key).map_err(|e| self.error(&e))?;
        let value = value.ok_or_else(|| self.damaged("a row names a pack that is not there"))?;
        let pack = pack_in(number, &key, &value);
        let pack = pack.ok_or_else(|| self.damaged("a pack's name does not pass its check"))?;
        let mut packs = self.packs.write();
        if packs.len() >= PACKS_REMEMBERED {
            packs.clear();
        }
        packs.insert(number, pack);
        Ok(pack)
    }

    /// Keeps the bound on disk: raises the sampling when the database has grown too large, and says whether anything
    /// may be taken in now.
    fn has_room(&self, writer: &mut Writer) -> Result<bool> {
        let used = self.property(rocksdb::properties::TOTAL_SST_FILES_SIZE);
        if used < self.max_disk / 10 * 6 {
            return Ok(true);
        }
        if writer.trim.as_ref().is_none_or(JoinHandle::is_finished) {
            let bits = self.sampling.load(Ordering::Acquire) + 1;
            if bits <= MAX_SAMPLING {
                tracing::info!(
                    "the chunk index in {} uses {used} of {} bytes: from now on it keeps one chunk in {}",
                    self.place.folder.display(),
                    self.max_disk,
                    1u64 << bits
                );
                self.note_sampling(Sampling { bits, trimmed: false })?;
                self.sampling.store(bits, Ordering::Release);
                self.start_trim(writer);
            }
        }
        Ok(used < self.max_disk / 10 * 8)
    }

    /// True when rows are left out for want of room, or soon will be.
    pub(super) fn is_crowded(&self) -> bool {
        self.sampling.load(Ordering::Acquire) > 0
            || self.property(rocksdb::properties::TOTAL_SST_FILES_SIZE) >= self.max_disk / 10 * 6
    }

    /// How many packs were taken in, and of how many of them this says that they are gone.
    pub(super) fn count_packs(&self, is_gone: impl Fn(&PackId) -> bool) -> Result<(u64, u64)> {
        let (mut all, mut gone) = (0, 0);
        for entry in self.db.iterator(IteratorMode::From(&NUMBERS, Direction::Forward)) {
            let (key, _) = entry.map_err(|e| self.error(&e))?;
            let Some(pack) = numbered(&key) else { break };
            all += 1;
            gone += u64::from(is_gone(&pack));
        }
        Ok((all, gone))
    }

    /// Drops all rows, and what says that they were taken in. Numbers keep their names: somebody may be looking one up.
    pub(super) fn clear(&self) -> Result<()> {
        let mut writer = self.writer.lock();
        if let Some(trim) = writer.trim.take() {
            let _ = trim.join();
        }
        let mut batch = WriteBatch::default();
        TAKEN.iter().for_each(|first| batch.delete_range([*first], [first + 1]));
        self.write(batch.data())?;
        self.note_sampling(Sampling { bits: 0, trimmed: true })?;
        self.sampling.store(0, Ordering::Release);
        self.flush()?;
        // Else they take the room of those that come.
        self.db.compact_range(None::<&[u8]>, None::<&[u8]>);
        Ok(())
    }

    fn note_sampling(&self, sampling: Sampling) -> Result<()> {
        note_sampling(&self.db, sampling).map_err(|e| self.error(&e))
    }

    /// Rewrites the database in the background without the rows that sampling leaves out.
    fn start_trim(&self, writer: &mut Writer) {
        let (db, bits) = (Arc::clone(&self.db), self.sampling.load(Ordering::Acquire));
        let trim = move || {
            let mut options = CompactOptions::default();
            options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
            options.set_exclusive_manual_compaction(false);
            db.compact_range_opt(None::<&[u8]>, None::<&[u8]>, &options);
            // Fails when the compaction was cancelled by closing, or failed: then the next open trims again.
            if let Err(e) = note_sampling(&db, Sampling { bits, trimmed: true }) {
                tracing::debug!("trimming the chunk index: {e}");
            }
        };
        match std::thread::Builder::new().name("index-trim".into()).spawn(trim) {
            Ok(thread) => writer.trim = Some(thread),
            Err(e) => tracing::debug!("trimming the chunk index: {e}"),
        }
    }

    fn property(&self, name: &rocksdb::properties::PropName) -> u64 {
        self.db.property_int_value(name).ok().flatten().unwrap_or(0)
    }

    /// Waits while the database catches up with itself, but not for somebody to make room on a full disk: a write would
    /// wait for that without end.
    fn wait_for_room(&self) -> Result<()> {
        for _ in 0..24_000 {
            if self.property(rocksdb::properties::BACKGROUND_ERRORS) > 0 {
                return Err(self.place.full("it could not be written in the background"));
            }
            if self.property(rocksdb::properties::IS_WRITE_STOPPED) == 0
                && self.property(rocksdb::properties::ACTUAL_DELAYED_WRITE_RATE) == 0
            {
                return Ok(());
            }
            self.place.check_space()?;
            std::thread::sleep(STEP);
        }
        Err(self.place.full("it does not get on"))
    }

    fn error(&self, error: &rocksdb::Error) -> Error {
        self.place.db_error(error)
    }

    fn damaged(&self, what: &str) -> Error {
        Error::corrupt(format!(
            "the chunk index in {} is damaged: {what}; going on without it, it is made anew next time",
            self.place.folder.display()
        ))
    }
}

impl Drop for Rocks {
    fn drop(&mut self) {
        if let Err(e) = self.flush() {
            tracing::debug!("closing the chunk index: {e}");
        }
        self.db.cancel_all_background_work(true);
        if let Some(trim) = self.writer.get_mut().trim.take() {
            let _ = trim.join();
        }
    }
}

fn note_sampling(db: &DB, sampling: Sampling) -> Result<(), rocksdb::Error> {
    db.put_opt(SAMPLING, sampling.encode(), &write_options())
}

fn next_pack(db: &DB) -> Result<u32, rocksdb::Error> {
    let last = db.iterator(IteratorMode::From(&pack_key(u32::MAX), Direction::Reverse)).next().transpose()?;
    Ok(last.map_or(0, |(key, _)| next_after(&key)))
}

/// How long to wait between two looks at a database that is busy with itself.
const STEP: std::time::Duration = std::time::Duration::from_millis(5);

fn write_options() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    // An error in place of a wait whose end nobody knows; see `wait_for_room`.
    options.set_no_slowdown(true);
    options
}
