use super::*;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

/// A disk of zeros that can be written to.
struct Disk(Vec<u8>);

impl Disk {
    fn new(size: u64) -> Self {
        Self(vec![0; size as usize])
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        self.0[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }

    /// An MBR, or a table of logical partitions, with these (type, start, count) in sectors.
    fn mbr(&mut self, sector: u64, entries: &[(u8, u32, u32)]) {
        let at = sector * 512;
        for (n, (kind, start, count)) in entries.iter().enumerate() {
            let entry = at + 446 + 16 * n as u64;
            self.put(entry + 4, &[*kind]);
            self.put(entry + 8, &start.to_le_bytes());
            self.put(entry + 12, &count.to_le_bytes());
        }
        self.put(at + 510, &[0x55, 0xaa]);
    }

    /// A header of a GPT at `at`, its entries at `entries`, in sectors of this size.
    fn gpt(&mut self, sector: u64, at: u64, entries: u64, parts: &[(u64, u64)]) {
        let mut raw = vec![0; 128 * 128];
        for (entry, (first, last)) in raw.chunks_exact_mut(128).zip(parts) {
            entry[..16].copy_from_slice(&[
                0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4,
            ]);
            entry[32..40].copy_from_slice(&first.to_le_bytes());
            entry[40..48].copy_from_slice(&last.to_le_bytes());
        }
        let mut head = vec![0; 92];
        head[..8].copy_from_slice(b"EFI PART");
        head[8..12].copy_from_slice(&0x0001_0000u32.to_le_bytes());
        head[12..16].copy_from_slice(&92u32.to_le_bytes());
        head[24..32].copy_from_slice(&at.to_le_bytes());
        head[72..80].copy_from_slice(&entries.to_le_bytes());
        head[80..84].copy_from_slice(&128u32.to_le_bytes());
        head[84..88].copy_from_slice(&128u32.to_le_bytes());
        head[88..92].copy_from_slice(&hash(&raw).to_le_bytes());
        let sum = hash(&head);
        head[16..20].copy_from_slice(&sum.to_le_bytes());
        self.put(at * sector, &head);
        self.put(entries * sector, &raw);
    }

    /// A disk with a GPT of sectors of this size and its two headers; two partitions.
    fn with_gpt(sector: u64) -> Self {
        let mut disk = Self::new(4 * MIB);
        disk.mbr(0, &[(0xee, 1, u32::MAX)]);
        let last = 4 * MIB / sector - 1;
        let parts = [(MIB / sector, 2 * MIB / sector - 1), (2 * MIB / sector, 3 * MIB / sector - 1)];
        disk.gpt(sector, 1, 2, &parts);
        disk.gpt(sector, last, last - 128 * 128 / sector, &parts);
        disk
    }

    fn read(&self) -> Option<Table> {
        read(&Window::whole(Arc::new(self.0.clone()))).unwrap()
    }

    fn parts(&self) -> Vec<(u32, u64, u64)> {
        let table = self.read().expect("there is a table");
        table.partitions.iter().map(|p| (p.number, p.bytes.start, p.bytes.end)).collect()
    }

    fn warning(&self) -> String {
        self.read().expect("there is a table").warnings.join("\n")
    }
}

#[test]
fn primary_partitions_have_the_number_of_their_place() {
    let mut disk = Disk::new(4 * MIB);
    disk.mbr(0, &[(0x83, 2048, 1024), (0, 0, 0), (0x8e, 4096, 2048)]);
    assert_eq!(disk.parts(), [(1, MIB, MIB + 512 * 1024), (3, 2 * MIB, 3 * MIB)]);
    let table = disk.read().unwrap();
    assert_eq!((table.partitions[0].kind.as_str(), table.partitions[1].kind.as_str()), ("Linux", "Linux LVM"));
    assert!(table.warnings.is_empty());
}

#[test]
fn what_is_no_partition_table_is_none() {
    assert_eq!(Disk::new(4 * MIB).read(), None);
    assert_eq!(Disk::new(100).read(), None);
    let mut disk = Disk::new(4 * MIB);
    disk.mbr(0, &[]);
    assert_eq!(disk.read(), None, "no entry");
    disk.mbr(0, &[(0x83, 2048, 1024)]);
    disk.put(446, &[0x12]);
    assert_eq!(disk.read(), None, "code in the place of a flag");
    let mut disk = Disk::new(4 * MIB);
    disk.mbr(0, &[(0x0c, 0, 8192)]);
    assert_eq!(disk.read(), None, "mkfs.fat makes one like this of the whole disk");
    disk.mbr(0, &[(0x83, 100_000, 1)]);
    assert_eq!(disk.read(), None, "beyond the end");
}

#[test]
fn logical_partitions_are_followed_through_their_chain() {
    let mut disk = Disk::new(4 * MIB);
    disk.mbr(0, &[(0x83, 1, 10), (0x05, 2048, 6000)]);
    disk.mbr(2048, &[(0x83, 8, 100), (0x05, 1000, 200)]);
    disk.mbr(3048, &[(0x82, 8, 50), (0x05, 2000, 200)]);
    disk.mbr(4048, &[(0x0b, 8, 60)]);
    let sectors = |number, start: u64, count: u64| (number, start * 512, (start + count) * 512);
    let expected = [sectors(1, 1, 10), sectors(5, 2056, 100), sectors(6, 3056, 50), sectors(7, 4056, 60)];
    assert_eq!(disk.parts(), expected);
}

#[test]
fn a_loop_in_the_chain_ends() {
    let mut disk = Disk::new(4 * MIB);
    disk.mbr(0, &[(0x05, 2048, 6000)]);
    disk.mbr(2048, &[(0x83, 8, 100), (0x05, 1000, 200)]);
    disk.mbr(3048, &[(0x83, 8, 100), (0x05, 0, 200)]);
    assert_eq!(disk.parts().len(), 2);
    assert!(disk.warning().contains("leads back to sector 2048"), "{}", disk.warning());
    // A chain that only ever leads on ends too.
    let mut disk = Disk::new(4 * MIB);
    disk.mbr(0, &[(0x05, 2, 8000)]);
    (0..500).for_each(|n| disk.mbr(2 + n, &[(0x83, 1, 1), (0x05, n as u32 + 1, 1)]));
    assert_eq!(disk.parts().len(), 128);
    assert!(disk.warning().contains("more than 128"), "{}", disk.warning());
    let mut disk = Disk::new(4 * MIB);
    disk.mbr(0, &[(0x05, 2, 8000)]);
    (0..500).for_each(|n| disk.mbr(2 + n, &[(0x05, n as u32 + 1, 1)]));
    assert!(disk.parts().is_empty());
    assert!(disk.warning().contains("more than 128"), "{}", disk.warning());
}

#[test]
fn a_chain_that_breaks_off_keeps_what_was_found() {
    let mut disk = Disk::new(4 * MIB);
    disk.mbr(0, &[(0x05, 2048, 6000)]);
    disk.mbr(2048, &[(0x83, 8, 100), (0x05, 1000, 200)]);
    assert_eq!(disk.parts().len(), 1);
    assert!(disk.warning().contains("damaged at sector 3048"), "{}", disk.warning());
    disk.mbr(2048, &[(0x83, 8, 100), (0x05, u32::MAX, 200)]);
    assert_eq!(disk.parts().len(), 1);
}

#[test]
fn partitions_end_where_the_disk_does() {
    let mut disk = Disk::new(4 * MIB);
    disk.mbr(0, &[(0x83, 2048, u32::MAX)]);
    assert_eq!(disk.parts(), [(1, MIB, 4 * MIB)]);
    assert!(disk.warning().contains("partition 1 goes beyond the end"), "{}", disk.warning());
}

#[test]
fn gpt_of_both_sizes_of_sectors() {
    for sector in [512, 4096] {
        let disk = Disk::with_gpt(sector);
        assert_eq!(disk.parts(), [(1, MIB, 2 * MIB), (2, 2 * MIB, 3 * MIB)], "{sector}");
        let table = disk.read().unwrap();
        assert!(table.warnings.is_empty(), "{:?}", table.warnings);
        assert_eq!(table.partitions[0].kind, "Linux");
    }
}

#[test]
fn any_bit_of_a_gpt_counts_and_the_second_header_stands_in() {
    for sector in [512, 4096] {
        // The header's own bytes, and those of its first two entries.
        let entries = 2 * sector;
        for at in (sector..sector + 92).chain(entries..entries + 256) {
            let mut disk = Disk::with_gpt(sector);
            disk.0[at as usize] ^= 0x10;
            assert_eq!(disk.parts(), [(1, MIB, 2 * MIB), (2, 2 * MIB, 3 * MIB)], "{sector}: byte {at}");
            assert!(disk.warning().contains("the first header of the GPT"), "byte {at}: {}", disk.warning());
            // The other one too: nothing is guessed.
            let last = 4 * MIB - sector;
            disk.put(last + 16, &[0; 4]);
            assert!(disk.parts().is_empty(), "{sector}: byte {at}");
            assert!(disk.warning().contains("both of its headers are damaged"), "{}", disk.warning());
        }
    }
}

#[test]
fn garbage_is_no_danger() {
    let mut random = 1u64;
    let mut next = move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        random >> 33
    };
    for round in 0..2_000 {
        let mut disk = if round % 2 == 0 { Disk::with_gpt(512) } else { Disk::new(MIB) };
        if round % 2 == 1 {
            disk.mbr(0, &[(0x83, 2048, 1024), (0x05, 64, 1000)]);
            disk.mbr(64, &[(0x83, 8, 100), (0x05, 100, 200)]);
        }
        for _ in 0..8 {
            let at = next() % 40_000;
            disk.0[at as usize] = next() as u8;
        }
        let size = disk.0.len() as u64;
        if let Some(table) = disk.read() {
            assert!(table.partitions.iter().all(|p| p.bytes.start < p.bytes.end && p.bytes.end <= size));
        }
    }
}
