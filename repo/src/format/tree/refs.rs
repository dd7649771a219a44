//! Numbers, the table of refs of a node, and their hints.

use super::super::Fields;
use super::super::node::follows;
use super::{MAX_REFS, Placed, Ref, max_plain};
use crate::Result;
use crate::id::{Codec, Location, PackId, PackKind, ShortId};
use std::collections::HashMap;

impl<'a> Fields<'a> {
    /// A `[v]`: LEB128 in its shortest form.
    pub(super) fn number(&mut self) -> Result<u64> {
        let mut n = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            n |= bits << shift;
            if byte & 0x80 == 0 {
                return if byte == 0 && shift > 0 {
                    Err(self.bad("a number is not in its shortest form"))
                } else {
                    Ok(n)
                };
            }
        }
        Err(self.bad("a number is too large"))
    }

    /// A `[t]`: length and bytes.
    pub(super) fn text(&mut self) -> Result<&'a [u8]> {
        let len = self.u8()?;
        self.take(usize::from(len))
    }

    /// A count [2] of things of at least `each` bytes, all of which must be there before memory is taken for them.
    pub(super) fn count(&mut self, least: usize, most: usize, each: usize) -> Result<usize> {
        let count = usize::from(self.u16()?);
        if count < least || count > most {
            return Err(self.bad("a count is 0 or above its limit"));
        }
        if self.remaining() < count * each {
            return Err(self.bad("it ends too early"));
        }
        Ok(count)
    }
}

/// Appends a `[v]`.
pub(super) fn put_number(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Appends a `[t]`.
pub(super) fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    debug_assert!(text.len() <= 255, "a text has at most 255 bytes");
    out.push(text.len() as u8);
    out.extend_from_slice(text);
}

/// Appends a count [2].
pub(super) fn put_count(out: &mut Vec<u8>, count: usize) {
    debug_assert!(count <= usize::from(u16::MAX), "a count has two bytes");
    out.extend_from_slice(&(count as u16).to_le_bytes());
}

/// Numbers of a table whose rows stand in the order of their first use and are all used.
#[derive(Debug)]
pub(super) struct FirstUse {
    used: usize,
    rows: usize,
}

impl FirstUse {
    pub(super) fn of(rows: usize) -> Self {
        Self { used: 0, rows }
    }

    /// The row of this number; `None` when it is not there or an earlier row was not used yet.
    pub(super) fn row(&mut self, number: u64) -> Option<usize> {
        let number = usize::try_from(number).ok().filter(|n| *n <= self.used && *n < self.rows)?;
        self.used = self.used.max(number + 1);
        Some(number)
    }

    pub(super) fn all(&self) -> bool {
        self.used == self.rows
    }
}

/// True when nothing is there twice.
pub(super) fn distinct<T: Ord>(mut rows: Vec<T>) -> bool {
    rows.sort_unstable();
    rows.windows(2).all(|pair| pair[0] != pair[1])
}

/// The refs of a node that is read.
#[derive(Debug)]
pub(super) struct Table {
    refs: Vec<Placed>,
    order: FirstUse,
}

impl Table {
    /// Reads the refs at the begin of `body` and all of `hints`.
    pub(super) fn read(body: &mut Fields<'_>, mut hints: Fields<'_>) -> Result<Self> {
        let count = body.count(0, MAX_REFS, 20)?;
        let mut refs = Vec::with_capacity(count);
        for _ in 0..count {
            let to = Ref { id: ShortId::new(body.array()?), class: body.u8()?, plain: body.u24()? };
            // That of a node depends on its hints, which are no part of its id: so it stands among those of this one.
            let fits = if to.class < 128 { fits(&to) } else { to.plain == 0 && max_plain(to.class).is_some() };
            if !fits {
                return Err(body.bad("a ref has an unknown class or a length that its class does not have"));
            }
            refs.push(to);
        }
        // Few are found faster by looking at each pair; the sort is for the others.
        let twice = match refs.len() {
            0..=8 => (1..count).any(|n| refs[..n].iter().any(|r| r.id == refs[n].id && r.class == refs[n].class)),
            _ => !distinct(refs.iter().map(|r| (r.id, r.class)).collect()),
        };
        if twice {
            return Err(body.bad("a ref is there twice"));
        }
        let refs = read_hints(&refs, &mut hints)?;
        hints.end()?;
        Ok(Self { refs, order: FirstUse::of(count) })
    }

    /// The ref of a number that the body names.
    pub(super) fn named(&mut self, f: &Fields<'_>, number: u64) -> Result<Placed> {
        let row = self.order.row(number).and_then(|row| self.refs.get(row));
        row.copied().ok_or_else(|| f.bad("a ref is not there, or not in the order of first use"))
    }

    /// Ends the body.
    pub(super) fn end(&self, body: Fields<'_>) -> Result<()> {
        if self.order.all() { body.end() } else { Err(body.bad("a ref is not used")) }
    }
}

fn read_hints(refs: &[Ref], f: &mut Fields<'_>) -> Result<Vec<Placed>> {
    let packs = f.count(0, refs.len(), 33)?;
    // Each pack has a run, each run a ref.
    let runs = usize::from(f.u16()?);
    let nodes = refs.iter().filter(|to| to.class >= 128).count();
    if runs < packs || runs > refs.len() || f.remaining() < packs * 33 + runs * 12 + refs.len() * 4 + nodes * 3 {
        return Err(f.bad("its hints are not as many as its refs need"));
    }
    let packs = (0..packs)
        .map(|_| Ok((PackId::from_bytes(&f.array()?).ok_or_else(|| f.bad("an unknown kind of pack"))?, f.u32()?)))
        .collect::<Result<Vec<_>>>()?;
    if !distinct(packs.clone()) {
        return Err(f.bad("a pack is there twice"));
    }
    let mut order = FirstUse::of(packs.len());
    let mut out: Vec<Placed> = Vec::with_capacity(refs.len());
    for _ in 0..runs {
        let (count, pack) = (usize::from(f.u16()?), f.u16()?);
        let (ordinal, mut offset) = (f.u32()?, f.u32()?);
        let Some((pack, epoch)) = order.row(u64::from(pack)).and_then(|n| packs.get(n).copied()) else {
            return Err(f.bad("a run names no pack, or not in the order of first use"));
        };
        let below = refs.get(out.len()..out.len() + count).filter(|below| !below.is_empty());
        let Some(below) = below else { return Err(f.bad("its runs do not cover its refs")) };
        for (i, to) in below.iter().enumerate() {
            if pack.kind != kind_of(to.class) {
                return Err(f.bad("a hint leads to the other kind of pack"));
            }
            let len = f.u24()?;
            let codec = Codec::from_u8(f.u8()?).ok_or_else(|| f.bad("an unknown codec"))?;
            let to = if to.class < 128 { *to } else { Ref { plain: f.u24()?, ..*to } };
            if !fits(&to) {
                return Err(f.bad("a node has a length that its class does not have"));
            }
            let ordinal = ordinal.checked_add(i as u32).ok_or_else(|| f.bad("an ordinal is too large"))?;
            let at = Location { pack, epoch, ordinal, offset, len, codec };
            if i == 0 && out.last().is_some_and(|before| follows(&before.at, &at)) {
                return Err(f.bad("a run could be continued by the next one"));
            }
            offset = offset.checked_add(len).ok_or_else(|| f.bad("an offset is too large"))?;
            out.push(Placed { to, at });
        }
    }
    if out.len() != refs.len() || !order.all() {
        return Err(f.bad("its runs do not cover its refs or its packs"));
    }
    Ok(out)
}

/// True when its class has such a length.
fn fits(to: &Ref) -> bool {
    to.plain > 0 && max_plain(to.class).is_some_and(|most| to.plain <= most)
}

/// Where chunks and nodes of a class lie.
fn kind_of(class: u8) -> PackKind {
    if class < 128 { PackKind::Data } else { PackKind::Meta }
}

/// The refs of a node that is written, by number.
#[derive(Debug, Default)]
pub(super) struct Refs {
    refs: Vec<Placed>,
    numbers: HashMap<(ShortId, u8), usize>,
    last: usize,
}

impl Refs {
    /// Appends the number of a ref, plus `more`. The hint that counts is that of the first time.
    pub(super) fn put(&mut self, out: &mut Vec<u8>, what: &Placed, more: u64) {
        let same = |r: &Placed| r.to.id == what.to.id && r.to.class == what.to.class;
        // Small files that follow each other are in one chunk.
        if !self.refs.get(self.last).is_some_and(same) {
            let next = self.refs.len();
            self.last = *self.numbers.entry((what.to.id, what.to.class)).or_insert(next);
            if self.last == next {
                self.refs.push(*what);
            }
        }
        put_number(out, self.last as u64 + more);
    }

    /// The node: head, refs, what the body says besides, hints.
    pub(super) fn node(&self, class: u8, said: &[u8]) -> Vec<u8> {
        let body = 2 + 20 * self.refs.len() + said.len();
        let mut out = Vec::with_capacity(8 + body + 4 + 49 * self.refs.len());
        out.extend_from_slice(&[1, class, 0, 0]);
        out.extend_from_slice(&(body as u32).to_le_bytes());
        put_count(&mut out, self.refs.len());
        for Placed { to, .. } in &self.refs {
            out.extend_from_slice(to.id.bytes());
            out.push(to.class);
            let plain = if to.class < 128 { to.plain } else { 0 };
            out.extend_from_slice(&plain.to_le_bytes()[..3]);
        }
        out.extend_from_slice(said);
        self.put_hints(&mut out);
        out
    }

    fn put_hints(&self, out: &mut Vec<u8>) {
        let mut packs: Vec<(PackId, u32)> = Vec::new();
        let mut known: HashMap<(PackId, u32), u16> = HashMap::new();
        // (first ref, refs, pack)
        let mut runs: Vec<(usize, usize, u16)> = Vec::new();
        let mut before: Option<&Location> = None;
        for (n, Placed { at, .. }) in self.refs.iter().enumerate() {
            match runs.last_mut() {
                Some(run) if before.is_some_and(|before| follows(before, at)) => run.1 += 1,
                _ => {
                    let key = (at.pack, at.epoch);
                    let pack = *known.entry(key).or_insert_with(|| {
                        packs.push(key);
                        (packs.len() - 1) as u16
                    });
                    runs.push((n, 1, pack));
                }
            }
            before = Some(at);
        }
        put_count(out, packs.len());
        put_count(out, runs.len());
        for (pack, epoch) in &packs {
            out.extend_from_slice(&pack.to_bytes());
            out.extend_from_slice(&epoch.to_le_bytes());
        }
        for (first, count, pack) in runs {
            let run = &self.refs[first..first + count];
            put_count(out, count);
            out.extend_from_slice(&pack.to_le_bytes());
            out.extend_from_slice(&run[0].at.ordinal.to_le_bytes());
            out.extend_from_slice(&run[0].at.offset.to_le_bytes());
            for Placed { to, at } in run {
                out.extend_from_slice(&at.len.to_le_bytes()[..3]);
                out.push(at.codec as u8);
                if to.class >= 128 {
                    out.extend_from_slice(&to.plain.to_le_bytes()[..3]);
                }
            }
        }
    }
}
