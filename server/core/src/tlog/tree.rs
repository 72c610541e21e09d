//! The Merkle tree of RFC 6962 section 2.1 over leaf hashes.
//!
//! Nothing here holds a tree. [`Frontier`] follows a growing log in a few hashes; everything else says *which* perfect subtrees
//! an answer consists of ([`Node`]), and the caller knows where their hashes lie.

use sha2::{Digest as _, Sha256};

use crate::chain::Hash;

/// Hashes in a full tile, and levels of the tree from one level of tiles to the next.
pub const TILE_WIDTH: u64 = 1 << TILE_HEIGHT;
/// Levels of the tree in one tile.
pub const TILE_HEIGHT: u8 = 8;

/// The root of the empty tree: SHA-256 of nothing.
#[must_use]
pub fn empty_root() -> Hash {
    Hash::from_bytes(Sha256::digest([]).into())
}

/// SHA-256 of a one byte and both children.
#[must_use]
pub fn node_hash(left: Hash, right: Hash) -> Hash {
    let mut sha = Sha256::new();
    sha.update([1]);
    sha.update(left.as_bytes());
    sha.update(right.as_bytes());
    Hash::from_bytes(sha.finalize().into())
}

/// A perfect subtree: the `2^level` leaves from `index * 2^level` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node {
    /// Height above the leaves.
    pub level: u8,
    /// Its place among the subtrees of that height.
    pub index: u64,
}

/// Hashes that lie next to each other on one level of tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Level of tiles: level 0 holds leaf hashes, level 1 the roots of full tiles of level 0, and so on.
    pub tile_level: u8,
    /// The first of them.
    pub first: u64,
    /// How many; a power of two, at most 128.
    pub count: u64,
}

impl Node {
    /// The stored hashes that this subtree is the root of. All of them lie in one tile.
    #[must_use]
    pub const fn stored(self) -> Run {
        let above = self.level % TILE_HEIGHT;
        Run { tile_level: self.level / TILE_HEIGHT, first: self.index << above, count: 1 << above }
    }
}

/// The leaves `from..to`: what RFC 6962 calls `D[from:to]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first leaf.
    pub from: u64,
    /// The leaf behind the last.
    pub to: u64,
}

impl Span {
    /// The perfect subtrees it consists of, left to right, each smaller than the one before.
    #[must_use]
    pub fn nodes(self) -> Vec<Node> {
        let mut nodes = Vec::new();
        let mut from = self.from;
        while from < self.to {
            // INVARIANT: every span of a proof begins at a multiple of the largest power of two that fits into it.
            let level = (self.to - from).ilog2();
            nodes.push(Node { level: level as u8, index: from >> level });
            from += 1 << level;
        }
        nodes
    }
}

/// The hash above perfect subtrees that stand side by side, each smaller than the one before; `None` for none at all.
#[must_use]
pub fn join(nodes: &[Hash]) -> Option<Hash> {
    let (last, before) = nodes.split_last()?;
    Some(before.iter().rev().fold(*last, |right, left| node_hash(*left, right)))
}

/// The root of a perfect subtree from its hashes, of which there are a power of two; `None` for none at all.
#[must_use]
pub fn perfect_root(hashes: &[Hash]) -> Option<Hash> {
    let mut row = hashes.to_vec();
    while row.len() > 1 {
        row = row
            .chunks(2)
            .map(|pair| match pair {
                [left, right] => node_hash(*left, *right),
                rest => rest.first().copied().unwrap_or_else(empty_root),
            })
            .collect();
    }
    row.first().copied()
}

/// The hashes that prove leaf `index` in the tree of `size` leaves (RFC 6962 section 2.1.1), sibling of the leaf first.
/// `None` if the tree has no such leaf.
#[must_use]
pub fn inclusion(index: u64, size: u64) -> Option<Vec<Span>> {
    if index >= size {
        return None;
    }
    let mut path = Vec::new();
    let (mut from, mut to) = (0, size);
    while to - from > 1 {
        let middle = from + split(to - from);
        if index < middle {
            path.push(Span { from: middle, to });
            to = middle;
        } else {
            path.push(Span { from, to: middle });
            from = middle;
        }
    }
    path.reverse();
    Some(path)
}

/// The hashes that prove that the tree of `old` leaves is the beginning of the tree of `new` leaves (RFC 6962 section 2.1.2).
/// Empty for an empty old tree and for equal sizes; `None` if the new tree is the smaller one.
#[must_use]
pub fn consistency(old: u64, new: u64) -> Option<Vec<Span>> {
    if old > new {
        return None;
    }
    let mut path = Vec::new();
    if old == 0 || old == new {
        return Some(path);
    }
    let (mut from, mut to) = (0, new);
    while old != to {
        let middle = from + split(to - from);
        if old <= middle {
            path.push(Span { from: middle, to });
            to = middle;
        } else {
            path.push(Span { from, to: middle });
            from = middle;
        }
    }
    // From 0, it is the old root itself, which the verifier has.
    if from > 0 {
        path.push(Span { from, to });
    }
    path.reverse();
    Some(path)
}

/// The largest power of two below `leaves`, of which there are at least two.
const fn split(leaves: u64) -> u64 {
    1 << (leaves - 1).ilog2()
}

/// The hashes of spans, looked up node by node.
///
/// # Errors
/// What `node` fails with.
pub fn resolve<E>(
    spans: &[Span],
    node: &mut dyn FnMut(Node) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    let mut hashes = Vec::with_capacity(spans.len());
    for span in spans {
        let nodes = span.nodes().into_iter().map(&mut *node).collect::<Result<Vec<_>, E>>()?;
        hashes.push(join(&nodes).unwrap_or_else(empty_root));
    }
    Ok(hashes)
}

/// The right edge of a growing tree: at most 64 hashes, whatever its size.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frontier {
    size: u64,
    /// Perfect subtrees left to right: level and hash.
    nodes: Vec<(u8, Hash)>,
}

impl Frontier {
    /// The empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The tree of `size` leaves, its nodes looked up.
    ///
    /// # Errors
    /// What `node` fails with.
    pub fn load<E>(size: u64, node: &mut dyn FnMut(Node) -> Result<Hash, E>) -> Result<Self, E> {
        let whole = Span { from: 0, to: size };
        let nodes = whole.nodes().into_iter().map(|at| Ok((at.level, node(at)?)));
        Ok(Self { size, nodes: nodes.collect::<Result<_, E>>()? })
    }

    /// The tree of `size` leaves by the path that proves leaf `size` (from 0) in the tree of one leaf more: all that is to its left.
    /// `None` if it is no such path.
    #[must_use]
    pub fn of_path(size: u64, path: &[Hash]) -> Option<Self> {
        let levels: Vec<u8> = (0..64).filter(|level| size >> level & 1 == 1).collect();
        (levels.len() == path.len()).then(|| {
            let nodes = levels.into_iter().zip(path.iter().copied()).rev().collect();
            Self { size, nodes }
        })
    }

    /// Leaves so far.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf. Hands out what is stored in tiles, with its level of tiles: the leaf hash, and the root of every tile that
    /// it fills.
    pub fn push(&mut self, leaf: Hash, stored: &mut dyn FnMut(u8, Hash)) {
        let (mut level, mut hash) = (0, leaf);
        stored(0, leaf);
        while let Some((_, left)) = self.nodes.pop_if(|(height, _)| *height == level) {
            hash = node_hash(left, hash);
            level += 1;
            if level % TILE_HEIGHT == 0 {
                stored(level / TILE_HEIGHT, hash);
            }
        }
        self.nodes.push((level, hash));
        self.size += 1;
    }

    /// The root of the tree.
    #[must_use]
    pub fn root(&self) -> Hash {
        let hashes: Vec<Hash> = self.nodes.iter().map(|(_, hash)| *hash).collect();
        join(&hashes).unwrap_or_else(empty_root)
    }
}
