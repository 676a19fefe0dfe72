//! Directory entries: those that processes see, those that a power loss leaves, and the changes in between.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::super::lock;
use super::inode::Inode;
use super::power::{Change, Chooser, Pending};

/// What a directory's entry names. Shared by the current and the durable entries, and by open handles.
#[derive(Clone)]
pub(super) enum Node {
    File(Arc<Mutex<Inode>>),
    Dir(Arc<Mutex<Directory>>),
}

/// A change of the entries that no sync has made durable yet.
#[derive(Clone)]
enum Entry {
    Created { name: Arc<str>, node: Node },
    Renamed { from: Arc<str>, to: Arc<str>, node: Node },
    Removed { name: Arc<str> },
}

#[derive(Default)]
pub(super) struct Directory {
    current: BTreeMap<Arc<str>, Node>,
    durable: BTreeMap<Arc<str>, Node>,
    /// In order; applied to `durable` they yield `current`.
    pending: Vec<Entry>,
}

impl Directory {
    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        self.current.get(name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.current.keys()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.current.is_empty()
    }

    pub(super) fn create(&mut self, name: &str, node: Node) {
        self.change(Entry::Created { name: name.into(), node });
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.change(Entry::Removed { name: name.into() });
    }

    pub(super) fn rename(&mut self, from: &str, to: &str, node: Node) {
        self.change(Entry::Renamed { from: from.into(), to: to.into(), node });
    }

    pub(super) fn sync(&mut self) {
        for entry in std::mem::take(&mut self.pending) {
            entry.apply(&mut self.durable);
        }
    }

    fn change(&mut self, entry: Entry) {
        entry.clone().apply(&mut self.current);
        self.pending.push(entry);
    }

    /// Every file below, with its path from the root.
    pub(super) fn for_each_file(&self, path: &str, act: &mut dyn FnMut(&str, &mut Inode)) {
        for (name, node) in &self.current {
            let path = join(path, name);
            match node {
                Node::File(inode) => act(&path, &mut lock(inode)),
                Node::Dir(dir) => lock(dir).for_each_file(&path, act),
            }
        }
    }

    /// The entries become the durable ones and what survives of the pending changes; then the same for everything
    /// below. `path` is this directory's.
    pub(super) fn lose_power(&mut self, path: &str, choose: &mut Chooser<'_>) {
        let pending = std::mem::take(&mut self.pending);
        if !pending.is_empty() {
            let changes = pending.iter().map(Entry::describe).collect();
            let survives = choose(&Pending { path: path.to_owned(), changes });
            assert_eq!(survives.len(), pending.len(), "every pending change is chosen or not");
            for (entry, _) in pending.into_iter().zip(survives).filter(|(_, survives)| *survives) {
                entry.apply(&mut self.durable);
            }
        }
        self.current = self.durable.clone();
        for (name, node) in &self.current {
            let path = join(path, name);
            match node {
                Node::File(inode) => lose_power_of_file(&mut lock(inode), path, choose),
                Node::Dir(dir) => lock(dir).lose_power(&path, choose),
            }
        }
    }
}

fn lose_power_of_file(inode: &mut Inode, path: String, choose: &mut Chooser<'_>) {
    let (pages, cut) = (inode.pending_pages(), inode.pending_cut());
    if pages.is_empty() && cut.is_none() {
        return inode.lose_power(&[], false);
    }
    let changes: Vec<Change> =
        cut.map(Change::Cut).into_iter().chain(pages.iter().copied().map(Change::Page)).collect();
    let pending = Pending { path, changes };
    let survives = choose(&pending);
    assert_eq!(survives.len(), pending.changes.len(), "every pending change is chosen or not");
    let mut chosen = pending.changes.iter().zip(survives).filter(|(_, survives)| *survives).map(|(change, _)| change);
    let cut_survives = cut.is_some() && chosen.clone().any(|change| matches!(change, Change::Cut(_)));
    let pages: Vec<u64> = chosen
        .by_ref()
        .filter_map(|change| match change {
            Change::Page(page) => Some(*page),
            Change::Cut(_) | Change::Create(_) | Change::Rename { .. } | Change::Remove(_) => None,
        })
        .collect();
    inode.lose_power(&pages, cut_survives);
}

impl Entry {
    fn apply(self, entries: &mut BTreeMap<Arc<str>, Node>) {
        match self {
            Entry::Created { name, node } => {
                entries.insert(name, node);
            }
            Entry::Renamed { from, to, node } => {
                entries.remove(&from);
                entries.insert(to, node);
            }
            Entry::Removed { name } => {
                entries.remove(&name);
            }
        }
    }

    fn describe(&self) -> Change {
        match self {
            Entry::Created { name, node: _ } => Change::Create(name.to_string()),
            Entry::Renamed { from, to, node: _ } => Change::Rename { from: from.to_string(), to: to.to_string() },
            Entry::Removed { name } => Change::Remove(name.to_string()),
        }
    }
}

pub(super) fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}
