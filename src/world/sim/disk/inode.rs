//! One simulated file: its content as the page cache holds it, and what is durable of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::content::Content;
use crate::world::Chain;

/// What the page cache writes to the medium as one: each page of it arrives whole or not at all.
pub const PAGE_BYTES: u64 = 4096;

/// A file's content and what a power loss would leave of it.
///
/// What is durable is kept as a difference to the content: a length, and the durable bytes of the ranges that were
/// overwritten or cut since the last sync. So the common case, append and sync, copies nothing. A page is pending
/// (dirty, not yet durable) if a range of `shadow` touches it or it reaches beyond `durable_len`.
pub(super) struct Inode {
    /// Counts a disk's files.
    pub(super) number: u64,
    /// Where its last entry was put, from the root.
    pub(super) path: Arc<str>,
    content: Content,
    durable_len: u64,
    /// By position; disjoint, and all below `durable_len`. Every durable byte is here or unchanged in `content`.
    shadow: BTreeMap<u64, Bytes>,
    /// The shortest that the file was since the last sync, if that is less than `durable_len`.
    cut: Option<u64>,
    /// Pages that stay dirty although a cut took away what was written to them.
    touched: BTreeSet<u64>,
    /// Pages that count as clean although the medium does not have them: a failed sync marks them so ("fsyncgate"),
    /// and so does a lost write. A sync leaves them out; writing to one makes it dirty again.
    forsaken: BTreeSet<u64>,
}

impl Inode {
    pub(super) fn new(number: u64, path: &str) -> Inode {
        Inode {
            number,
            path: path.into(),
            content: Content::default(),
            durable_len: 0,
            shadow: BTreeMap::new(),
            cut: None,
            touched: BTreeSet::new(),
            forsaken: BTreeSet::new(),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.content.len()
    }

    pub(super) fn read(&mut self, position: u64, bytes_max: usize) -> Chain {
        self.content.read(position, bytes_max)
    }

    /// Both behind the end, in one piece; returns them as they lie there.
    pub(super) fn append(&mut self, first: &[u8], second: &[u8]) -> &[u8] {
        self.redirty(self.content.len(), first.len() + second.len());
        self.content.append_both(first, second)
    }

    /// `position` is not beyond the end.
    pub(super) fn write(&mut self, position: u64, data: &[u8]) {
        self.redirty(position, data.len());
        self.keep_durable(position, position + data.len() as u64);
        self.content.write(position, data);
    }

    /// `len` is not beyond the end.
    pub(super) fn truncate(&mut self, len: u64) {
        let last = len / PAGE_BYTES;
        let stays_dirty = !len.is_multiple_of(PAGE_BYTES) && self.pending_pages().binary_search(&last).is_ok();
        self.touched.split_off(&len.div_ceil(PAGE_BYTES));
        if stays_dirty {
            self.touched.insert(last);
        }
        self.keep_durable(len, self.durable_len);
        self.content.truncate(len);
        if len < self.durable_len {
            self.cut = Some(self.cut.map_or(len, |cut| cut.min(len)));
        }
        if !self.forsaken.is_empty() {
            self.forsaken.split_off(&len.div_ceil(PAGE_BYTES));
        }
    }

    /// Makes everything durable but the forsaken pages.
    pub(super) fn sync(&mut self) {
        if self.forsaken.is_empty() {
            self.shadow.clear();
            self.durable_len = self.content.len();
        } else {
            self.sync_around_forsaken();
        }
        self.touched.clear();
        self.cut = None;
    }

    /// The pending pages never get to the medium, and count as clean from now on.
    pub(super) fn forsake_pending(&mut self) {
        let pages = self.pending_pages();
        self.forsaken.extend(pages);
    }

    /// The pages of this range never get to the medium as they are now, and count as clean.
    pub(super) fn forsake(&mut self, position: u64, bytes: usize) {
        self.forsaken.extend(pages_of(position, position + bytes as u64));
    }

    /// Writes over what the medium holds, as far as it holds anything there, behind the back of the page cache. A page
    /// that is dirty makes good for it when it is written back.
    pub(super) fn overwrite_medium(&mut self, position: u64, data: &[u8]) {
        let dirty = self.pending_pages();
        let end = (position + data.len() as u64).min(self.durable_len);
        self.keep_durable(position, end);
        for (&start, bytes) in self.shadow.range_mut(..end) {
            let (from, to) = (start.max(position), (start + bytes.len() as u64).min(end));
            if from < to {
                let mut patched = bytes.to_vec();
                patched[(from - start) as usize..(to - start) as usize]
                    .copy_from_slice(&data[(from - position) as usize..(to - position) as usize]);
                *bytes = patched.into();
            }
        }
        self.forsaken.extend(pages_of(position, end).filter(|page| dirty.binary_search(page).is_err()));
    }

    /// The dirty pages, in order.
    pub(super) fn pending_pages(&self) -> Vec<u64> {
        let overwritten = self.shadow.iter().map(|(&start, bytes)| (start, start + bytes.len() as u64));
        let grown = (self.durable_len, self.len());
        let mut pages = BTreeSet::new();
        for (start, end) in overwritten.chain([grown]) {
            pages.extend(pages_of(start, end.min(self.len())));
        }
        pages.extend(&self.touched);
        pages.into_iter().filter(|page| !self.forsaken.contains(page)).collect()
    }

    /// The length that the file was cut to, where that is not durable yet.
    pub(super) fn pending_cut(&self) -> Option<u64> {
        self.cut
    }

    /// The content becomes what is durable, plus those of the pending pages that survive, and the pending cut if it
    /// does. Where a page survives beyond one that is lost, the medium never held anything: zeros.
    pub(super) fn lose_power(&mut self, surviving_pages: &[u64], cut_survives: bool) {
        let survivors: Vec<(u64, Bytes)> = surviving_pages
            .iter()
            .map(|page| (page * PAGE_BYTES, self.content.read(page * PAGE_BYTES, PAGE_BYTES as usize).into_bytes()))
            .collect();
        self.revert();
        if let Some(cut) = self.cut.take().filter(|_| cut_survives) {
            self.content.truncate(cut);
        }
        for (position, bytes) in survivors {
            self.put(position, &bytes);
        }
        self.durable_len = self.content.len();
    }

    /// The page cache drops its clean pages: what is read from now on is what the medium holds.
    pub(super) fn drop_clean_pages(&mut self) {
        if self.forsaken.is_empty() {
            return;
        }
        let pages = self.pending_pages();
        let dirty: Vec<(u64, Bytes)> = pages
            .iter()
            .map(|page| (page * PAGE_BYTES, self.content.read(page * PAGE_BYTES, PAGE_BYTES as usize).into_bytes()))
            .collect();
        let (cut, len) = (self.cut, self.len());
        self.revert();
        if let Some(cut) = cut {
            self.truncate(cut);
        }
        for (position, bytes) in dirty {
            self.keep_durable(position, position + bytes.len() as u64);
            self.put(position, &bytes);
        }
        // The length is metadata: the file keeps it, and a page that the medium never had reads as zeros.
        let missing = len.saturating_sub(self.len());
        self.content.append(&vec![0; missing as usize]);
        let held = self.durable_len.min(cut.unwrap_or(u64::MAX));
        self.forsaken = pages_of(held, len).filter(|page| pages.binary_search(page).is_err()).collect();
    }

    /// Changes one byte on the medium and in the page cache, as if it had always been so; false beyond the end.
    pub(super) fn rot(&mut self, position: u64, mask: u8) -> bool {
        if position >= self.len() {
            return false;
        }
        let byte = self.content.read(position, 1).front()[0];
        self.content.write(position, &[byte ^ mask]);
        if let Some((start, bytes)) = self.shadow.range_mut(..=position).next_back() {
            let at = (position - start) as usize;
            if at < bytes.len() {
                let mut rotten = bytes.to_vec();
                rotten[at] ^= mask;
                *bytes = rotten.into();
            }
        }
        true
    }

    /// The content becomes what is durable.
    fn revert(&mut self) {
        for (position, bytes) in std::mem::take(&mut self.shadow) {
            self.content.write(position, &bytes);
        }
        self.content.truncate(self.durable_len);
        self.touched.clear();
        self.forsaken.clear();
    }

    /// Writes a page's bytes, filling a gap before it with zeros. Behind them its page holds zeros too.
    fn put(&mut self, position: u64, bytes: &[u8]) {
        let len = self.content.len();
        if position > len {
            self.content.append(&vec![0; (position - len) as usize]);
        }
        self.content.write(position, bytes);
        let end = position + bytes.len() as u64;
        let page_end = (position + PAGE_BYTES).min(self.content.len());
        if page_end > end {
            self.content.write(end, &vec![0; (page_end - end) as usize]);
        }
    }

    /// The durable length reaches to the end of the last page that is not forsaken; forsaken pages below it keep what
    /// the medium held of them, zeros where it held nothing.
    fn sync_around_forsaken(&mut self) {
        let len = self.content.len();
        let mut reach = len;
        while reach > 0 && self.forsaken.contains(&((reach - 1) / PAGE_BYTES)) {
            reach = (reach - 1) / PAGE_BYTES * PAGE_BYTES;
        }
        let held = self.durable_len.min(self.cut.unwrap_or(u64::MAX)).min(len);
        let mut kept = BTreeMap::new();
        for page in &self.forsaken {
            let (start, end) = (page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
            for (&at, bytes) in self.shadow.range(..end.min(held)) {
                let shadow_end = at + bytes.len() as u64;
                let (from, to) = (at.max(start), shadow_end.min(end).min(held));
                if from < to {
                    kept.insert(from, bytes.slice((from - at) as usize..(to - at) as usize));
                }
            }
            let (from, to) = (start.max(held), end.min(reach));
            if from < to {
                kept.insert(from, vec![0; (to - from) as usize].into());
            }
        }
        self.shadow = kept;
        self.durable_len = reach.max(held);
    }

    /// Pages that are written to are dirty, whatever happened to them before.
    fn redirty(&mut self, position: u64, bytes: usize) {
        if !self.forsaken.is_empty() {
            for page in pages_of(position, position + bytes as u64) {
                self.forsaken.remove(&page);
            }
        }
    }

    /// Copies the durable bytes of a range, which is about to change, to the shadow unless they are there already.
    fn keep_durable(&mut self, start: u64, end: u64) {
        let end = end.min(self.durable_len);
        let mut at = start;
        while at < end {
            let before = self.shadow.range(..=at).next_back().map(|(start, bytes)| start + bytes.len() as u64);
            if let Some(shadow_end) = before.filter(|&shadow_end| shadow_end > at) {
                at = shadow_end;
                continue;
            }
            let next = self.shadow.range(at..).next().map_or(end, |(&start, _)| start.min(end));
            let bytes = self.content.read(at, (next - at) as usize).into_bytes();
            assert_eq!(bytes.len() as u64, next - at, "durable bytes are in the content or in the shadow");
            self.shadow.insert(at, bytes);
            at = next;
        }
    }
}

/// The pages that hold the bytes from `start` to `end`.
fn pages_of(start: u64, end: u64) -> std::ops::Range<u64> {
    if start < end { start / PAGE_BYTES..end.div_ceil(PAGE_BYTES) } else { 0..0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Append(Vec<u8>),
        Write(usize, Vec<u8>),
        Truncate(usize),
        Read(usize, usize),
        Sync,
        /// fsync fails: what is pending counts as clean.
        Forsake,
        /// A write that never gets to the medium.
        Lose(usize, usize),
        OverwriteMedium(usize, Vec<u8>),
        DropCleanPages,
        /// Pages whose bit is set survive, and the cut if the second says so.
        LosePower(u64, bool),
        Rot(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let data = || proptest::collection::vec(any::<u8>(), 0..6000);
        prop_oneof![
            4 => data().prop_map(Step::Append),
            2 => (any::<usize>(), data()).prop_map(|(at, data)| Step::Write(at, data)),
            2 => any::<usize>().prop_map(Step::Truncate),
            2 => (any::<usize>(), 0..6000usize).prop_map(|(at, max)| Step::Read(at, max)),
            2 => Just(Step::Sync),
            1 => Just(Step::Forsake),
            1 => (any::<usize>(), 1..6000usize).prop_map(|(at, bytes)| Step::Lose(at, bytes)),
            1 => (any::<usize>(), data()).prop_map(|(at, data)| Step::OverwriteMedium(at, data)),
            1 => Just(Step::DropCleanPages),
            1 => (any::<u64>(), any::<bool>()).prop_map(|(pages, cut)| Step::LosePower(pages, cut)),
            1 => any::<usize>().prop_map(Step::Rot),
        ]
    }

    const PAGE: usize = PAGE_BYTES as usize;

    /// The plainest description of a file: every byte that is cached and every byte of the medium.
    #[derive(Default)]
    struct Model {
        cached: Vec<u8>,
        medium: Vec<u8>,
        dirty: BTreeSet<usize>,
        cut: Option<usize>,
    }

    impl Model {
        fn write(&mut self, at: usize, data: &[u8]) {
            let end = (at + data.len()).max(self.cached.len());
            self.cached.resize(end, 0);
            self.cached[at..at + data.len()].copy_from_slice(data);
            self.dirty.extend(pages_of(at as u64, (at + data.len()) as u64).map(|page| page as usize));
        }

        fn truncate(&mut self, len: usize) {
            self.cached.truncate(len);
            self.dirty.split_off(&len.div_ceil(PAGE));
            if len < self.medium.len() {
                self.cut = Some(self.cut.map_or(len, |cut| cut.min(len)));
            }
        }

        fn write_back(&mut self, page: usize) {
            let (start, end) = (page * PAGE, ((page + 1) * PAGE).min(self.cached.len()));
            self.medium.resize(self.medium.len().max(end), 0);
            self.medium[start..end].copy_from_slice(&self.cached[start..end]);
            let page_end = ((page + 1) * PAGE).min(self.medium.len());
            self.medium[end..page_end].fill(0);
        }

        fn persist_cut(&mut self) {
            if let Some(cut) = self.cut.take() {
                self.medium.truncate(cut);
            }
        }

        fn sync(&mut self) {
            self.persist_cut();
            for page in std::mem::take(&mut self.dirty) {
                self.write_back(page);
            }
        }

        fn drop_clean(&mut self) {
            let mut seen = self.medium.clone();
            seen.truncate(self.cut.unwrap_or(usize::MAX));
            seen.resize(self.cached.len(), 0);
            for (page, bytes) in seen.chunks_mut(PAGE).enumerate() {
                if self.dirty.contains(&page) {
                    bytes.copy_from_slice(&self.cached[page * PAGE..page * PAGE + bytes.len()]);
                }
            }
            self.cached = seen;
        }

        fn lose_power(&mut self, pages: &[u64], cut_survives: bool) {
            if cut_survives {
                self.persist_cut();
            }
            self.cut = None;
            for &page in pages {
                self.write_back(page as usize);
            }
            self.dirty.clear();
            self.cached = self.medium.clone();
        }
    }

    proptest! {
        #[test]
        fn behaves_like_a_cache_above_a_medium(steps in proptest::collection::vec(step(), 1..60)) {
            let mut inode = Inode::new(1, "log");
            let mut model = Model::default();
            for step in steps {
                let len = model.cached.len();
                match step {
                    Step::Append(data) => {
                        let half = data.len() / 2;
                        prop_assert_eq!(inode.append(&data[..half], &data[half..]), &data);
                        model.write(len, &data);
                    }
                    Step::Write(at, data) => {
                        let at = at % (len + 1);
                        inode.write(at as u64, &data);
                        model.write(at, &data);
                    }
                    Step::Truncate(to) => {
                        let to = to % (len + 1);
                        inode.truncate(to as u64);
                        model.truncate(to);
                    }
                    Step::Read(at, max) => {
                        let at = at % (len + 2);
                        let end = (at + max).min(len);
                        prop_assert_eq!(&inode.read(at as u64, max).into_bytes()[..], &model.cached[at.min(end)..end]);
                    }
                    Step::Sync => {
                        inode.sync();
                        model.sync();
                    }
                    Step::Forsake => {
                        inode.forsake_pending();
                        model.dirty.clear();
                    }
                    Step::Lose(at, bytes) => {
                        let at = at % (len + 1);
                        let bytes = bytes.min(len - at);
                        inode.forsake(at as u64, bytes);
                        for page in pages_of(at as u64, (at + bytes) as u64) {
                            model.dirty.remove(&(page as usize));
                        }
                    }
                    Step::OverwriteMedium(at, data) => {
                        let at = at % (len + 1);
                        inode.overwrite_medium(at as u64, &data);
                        let end = (at + data.len()).min(model.medium.len());
                        if at < end {
                            model.medium[at..end].copy_from_slice(&data[..end - at]);
                        }
                    }
                    Step::DropCleanPages => {
                        inode.drop_clean_pages();
                        model.drop_clean();
                    }
                    Step::LosePower(chosen, cut) => {
                        let pages = inode.pending_pages();
                        let pages: Vec<u64> = pages.into_iter().filter(|page| chosen >> (page % 64) & 1 == 1).collect();
                        inode.lose_power(&pages, cut);
                        model.lose_power(&pages, cut);
                    }
                    Step::Rot(at) => {
                        let at = at % (len + 1);
                        prop_assert_eq!(inode.rot(at as u64, 0x10), at < len);
                        if at < len {
                            model.cached[at] ^= 0x10;
                            if let Some(byte) = model.medium.get_mut(at) {
                                *byte ^= 0x10;
                            }
                        }
                    }
                }
                prop_assert_eq!(inode.len(), model.cached.len() as u64);
                prop_assert_eq!(inode.pending_cut(), model.cut.map(|cut| cut as u64));
            }
            prop_assert!(inode.read(0, usize::MAX).into_bytes()[..] == model.cached[..]);
            inode.lose_power(&[], false);
            prop_assert!(inode.read(0, usize::MAX).into_bytes()[..] == model.medium[..]);
        }
    }

    #[test]
    fn a_slice_that_was_read_keeps_its_bytes() {
        let mut inode = Inode::new(1, "log");
        inode.append(b"bef", b"ore");
        let read = inode.read(0, 6);
        inode.write(0, b"behind");
        inode.truncate(3);
        inode.append(b"xyz", b"");
        assert_eq!(&read.into_bytes()[..], b"before");
        assert_eq!(&inode.read(0, 9).into_bytes()[..], b"behxyz");
    }

    #[test]
    fn reads_within_an_append_share_its_memory() {
        let mut inode = Inode::new(1, "log");
        inode.append(&[7; 1000], &[]);
        let (a, b) = (inode.read(0, 1000), inode.read(100, 900));
        assert_eq!(a.front()[100..].as_ptr(), b.front().as_ptr());
    }
}
