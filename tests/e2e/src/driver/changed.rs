//! The SnapshotMetadata service: which blocks of a snapshot are allocated, and which differ from an earlier one.

use super::{Driver, given, internal};
use crate::csi::{BlockMetadata, GetMetadataAllocatedRequest, GetMetadataDeltaRequest, Metadata, block_metadata_type};
use crate::store::Snapshot;
use crate::{faults, images};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tonic::Status;

/// Ranges in a message when the client does not say how many it wants.
const RANGES: usize = 256;

/// An answer, message by message: what is sent, and the error that it ends with, if it does.
pub(crate) type Answer = VecDeque<Result<Metadata, Status>>;

impl Driver {
    pub(crate) fn get_metadata_allocated(&self, request: GetMetadataAllocatedRequest) -> Result<Answer, Status> {
        self.check_offered()?;
        let target = self.snapshot(&request.snapshot_id)?;
        let block_size = self.options.block_size;
        let blocks = images::allocated(&self.snapshots.image(&target.id), block_size).map_err(internal)?;
        self.answer_blocks(&target, &blocks, request.starting_offset, request.max_results)
    }

    pub(crate) fn get_metadata_delta(&self, request: GetMetadataDeltaRequest) -> Result<Answer, Status> {
        self.check_offered()?;
        let base_id = given(&request.base_snapshot_id, "base_snapshot_id")?;
        let target = self.snapshot(given(&request.target_snapshot_id, "target_snapshot_id")?)?;
        let old = if let Some(base) = self.snapshots.get(base_id).map_err(internal)? {
            check_volumes(&base.volume, &target)?;
            self.table(&base)?
        } else {
            let gone = || Status::not_found(format!("there is no snapshot {base_id:?} to compare with"));
            if self.has(&faults::DELTA_NEEDS_BASE)? {
                return Err(gone());
            }
            let base = self.tables.get(base_id).map_err(internal)?.ok_or_else(gone)?;
            check_volumes(&base.volume, &target)?;
            if base.block_size != self.options.block_size {
                return Err(Status::failed_precondition("the base was deleted when blocks had another size"));
            }
            base.hashes
        };
        let new = self.table(&target)?;
        let blocks: BTreeSet<u64> = new.keys().chain(old.keys()).copied().collect();
        let blocks: Vec<u64> = blocks.into_iter().filter(|block| new.get(block) != old.get(block)).collect();
        self.answer_blocks(&target, &blocks, request.starting_offset, request.max_results)
    }

    /// The hashes of a snapshot that is there: from its table, or by reading it.
    fn table(&self, snapshot: &Snapshot) -> Result<BTreeMap<u64, String>, Status> {
        let block_size = self.options.block_size;
        match self.tables.get(&snapshot.id).map_err(internal)? {
            Some(table) if table.block_size == block_size => Ok(table.hashes),
            _ => images::hashes(&self.snapshots.image(&snapshot.id), block_size).map_err(internal),
        }
    }

    fn check_offered(&self) -> Result<(), Status> {
        if self.has(&faults::CHANGED_BLOCKS_MISSING)? {
            return Err(Status::unimplemented("there is no SnapshotMetadata service"));
        }
        Ok(())
    }

    fn answer_blocks(&self, target: &Snapshot, blocks: &[u64], from: i64, most: i32) -> Result<Answer, Status> {
        let size = target.size.cast_signed();
        if from < 0 || from >= size {
            return Err(Status::out_of_range(format!(
                "starting_offset {from} is not within the volume's {size} bytes"
            )));
        }
        let length = self.options.block_size.cast_signed();
        let mut ranges: Vec<BlockMetadata> = Vec::new();
        for block in blocks {
            let byte_offset = block.cast_signed() * length;
            if byte_offset + length <= from || byte_offset >= size {
                continue;
            }
            match ranges.last_mut() {
                Some(last) if self.options.variable_blocks && last.byte_offset + last.size_bytes == byte_offset => {
                    last.size_bytes += length;
                }
                _ => ranges.push(BlockMetadata { byte_offset, size_bytes: length }),
            }
        }
        // Static volumes have any size: a last block that is cut is of another length.
        let cut = size % length != 0;
        if let Some(last) = ranges.last_mut() {
            last.size_bytes = last.size_bytes.min(size - last.byte_offset);
        }
        let kind = if self.options.variable_blocks || cut {
            block_metadata_type::VARIABLE_LENGTH
        } else {
            block_metadata_type::FIXED_LENGTH
        };
        let most = usize::try_from(most).ok().filter(|most| *most > 0).unwrap_or(RANGES);
        let message = |ranges: &[BlockMetadata]| Metadata {
            block_metadata_type: kind,
            volume_capacity_bytes: size,
            block_metadata: ranges.to_vec(),
        };
        let mut messages: Vec<Metadata> = ranges.chunks(most).map(message).collect();
        if messages.is_empty() {
            messages.push(message(&[])); // it tells the size
        }
        self.spoil(messages)
    }

    /// Lets the answer be wrong or cut as the faults say.
    fn spoil(&self, mut messages: Vec<Metadata>) -> Result<Answer, Status> {
        match self.faults.amount(&faults::CHANGED_BLOCKS_WRONG).map_err(internal)? {
            None => {}
            Some(1) => {
                let mut ranges: Vec<_> = messages.iter().flat_map(|message| message.block_metadata.clone()).collect();
                // Of fewer than two, one is told twice: that is not in order either.
                if let [one] = &ranges[..] {
                    ranges.push(one.clone());
                }
                ranges.reverse();
                messages.truncate(1);
                messages.iter_mut().for_each(|message| message.block_metadata.clone_from(&ranges));
            }
            Some(2) => {
                if let Some(last) = messages.last_mut() {
                    let size_bytes = self.options.block_size.cast_signed();
                    last.block_metadata.push(BlockMetadata { byte_offset: last.volume_capacity_bytes, size_bytes });
                }
            }
            Some(_) => {
                let mut other = messages.last().cloned().unwrap_or_default();
                other.volume_capacity_bytes *= 2;
                other.block_metadata.clear();
                messages.push(other);
            }
        }
        let cut = self.faults.amount(&faults::CHANGED_BLOCKS_CUT).map_err(internal)?;
        let short = self.faults.amount(&faults::CHANGED_BLOCKS_SHORT).map_err(internal)?;
        let mut answer: Answer = messages.into_iter().map(Ok).collect();
        if let Some(kept) = short {
            answer.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
        }
        if let Some(kept) = cut.and_then(|kept| usize::try_from(kept).ok()).filter(|kept| *kept < answer.len()) {
            answer.truncate(kept);
            answer.push_back(Err(Status::unavailable("the stream is cut because the fault changed-blocks-cut is set")));
        }
        Ok(answer)
    }
}

fn check_volumes(base: &str, target: &Snapshot) -> Result<(), Status> {
    if base == target.volume {
        return Ok(());
    }
    let message = format!("the snapshots are of two volumes, {base} and {}", target.volume);
    Err(Status::invalid_argument(message))
}
