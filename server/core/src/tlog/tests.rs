//! Against published vectors, against a naive reading of the RFC, and against other people's implementations.

use std::convert::Infallible;

use proptest::prelude::*;
use signed_note::{StandardVerifier, VerifierList};

use super::proof::{Error, ProofFile, verify_consistency, verify_inclusion};
use super::tile::{Kind, Tile};
use super::tree::{Frontier, Node, TILE_WIDTH, consistency, inclusion, perfect_root, resolve};
use super::*;
use crate::chain::{Hash, leaf_hash};

mod other {
    //! A second implementation of RFC 6962, by its own types, on SHA-256 from `sha2`.

    use sha2::{Digest as _, Sha256};
    use sigstore_crypto::provider::{CryptoProvider, HashContext, install_default_provider};
    use sigstore_crypto::{Error, Result, SigningScheme};
    use sigstore_merkle::{hash_leaf, verify_consistency_proof, verify_inclusion_proof};
    use sigstore_types::{HashAlgorithm, Sha256Hash};

    use super::Hash;

    #[derive(Debug)]
    struct Sha2;

    struct Context(Sha256);

    impl HashContext for Context {
        fn update(&mut self, data: &[u8]) {
            self.0.update(data);
        }

        fn finalize(self: Box<Self>) -> Vec<u8> {
            self.0.finalize().to_vec()
        }
    }

    impl CryptoProvider for Sha2 {
        fn hash(&self, algorithm: HashAlgorithm) -> Result<Box<dyn HashContext>> {
            assert_eq!(algorithm, HashAlgorithm::Sha2256);
            Ok(Box::new(Context(Sha256::new())))
        }

        fn verify_raw(&self, scheme: SigningScheme, _: &[u8], _: &[u8], _: &[u8]) -> Result<()> {
            Err(unsigned(scheme))
        }

        fn verify_prehashed(
            &self,
            scheme: SigningScheme,
            _: &[u8],
            _: &[u8],
            _: &[u8],
        ) -> Result<()> {
            Err(unsigned(scheme))
        }
    }

    /// A tree of hashes has nothing that is signed.
    fn unsigned(scheme: SigningScheme) -> Error {
        Error::UnsupportedAlgorithm(format!("{scheme:?}"))
    }

    pub(super) fn inclusion(entry: &[u8], at: u64, size: u64, proof: &[Hash], root: Hash) -> bool {
        // Whoever is second finds the same provider there.
        let _ = install_default_provider(&Sha2);
        verify_inclusion_proof(&hash_leaf(entry), at, size, &theirs(proof), &their(root)).is_ok()
    }

    pub(super) fn consistency(old: (u64, Hash), new: (u64, Hash), proof: &[Hash]) -> bool {
        let _ = install_default_provider(&Sha2);
        let (before, after) = (their(old.1), their(new.1));
        verify_consistency_proof(old.0, new.0, &theirs(proof), &before, &after).is_ok()
    }

    fn their(hash: Hash) -> Sha256Hash {
        Sha256Hash::new(*hash.as_bytes())
    }

    fn theirs(proof: &[Hash]) -> Vec<Sha256Hash> {
        proof.iter().copied().map(their).collect()
    }
}

/// A tree whose stored hashes are kept in memory, as flat rows per level of tiles.
#[derive(Default)]
struct Tree {
    frontier: Frontier,
    rows: Vec<Vec<Hash>>,
    roots: Vec<Hash>,
}

impl Tree {
    fn of(leaves: impl IntoIterator<Item = Hash>) -> Self {
        let mut tree = Self::default();
        tree.roots.push(tree.frontier.root());
        for leaf in leaves {
            let rows = &mut tree.rows;
            tree.frontier.push(leaf, &mut |level, hash| {
                let level = usize::from(level);
                rows.resize(rows.len().max(level + 1), Vec::new());
                rows[level].push(hash);
            });
            tree.roots.push(tree.frontier.root());
        }
        tree
    }

    fn sized(size: u64) -> Self {
        Self::of((0..size).map(|i| leaf_hash(&entry(i))))
    }

    fn node(&self, node: Node) -> Hash {
        let run = node.stored();
        let (from, count) = (run.first as usize, run.count as usize);
        perfect_root(&self.rows[usize::from(run.tile_level)][from..from + count]).unwrap()
    }

    fn hashes(&self, spans: &[tree::Span]) -> Vec<Hash> {
        resolve::<Infallible>(spans, &mut |node| Ok(self.node(node))).unwrap()
    }

    fn root(&self, size: u64) -> Hash {
        self.roots[size as usize]
    }

    fn inclusion(&self, index: u64, size: u64) -> Vec<Hash> {
        self.hashes(&inclusion(index, size).unwrap())
    }

    fn consistency(&self, old: u64, new: u64) -> Vec<Hash> {
        self.hashes(&consistency(old, new).unwrap())
    }
}

fn entry(i: u64) -> Vec<u8> {
    format!(r#"{{"event_name":"HEARTBEAT","seq":{}}}"#, i + 1).into_bytes()
}

/// The definition of RFC 6962 section 2.1, word for word.
fn naive(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => tree::empty_root(),
        [leaf] => *leaf,
        more => {
            let k = more.len().next_power_of_two() / 2;
            tree::node_hash(naive(&more[..k]), naive(&more[k..]))
        }
    }
}

#[test]
fn roots_are_those_of_the_published_vectors() {
    let inputs: [&[u8]; 8] = [
        b"",
        &[0x00],
        &[0x10],
        &[0x20, 0x21],
        &[0x30, 0x31],
        &[0x40, 0x41, 0x42, 0x43],
        &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
        &[
            0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d,
            0x6e, 0x6f,
        ],
    ];
    let roots = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let tree = Tree::of(inputs.iter().map(|input| leaf_hash(input)));
    for (size, root) in roots.iter().enumerate() {
        assert_eq!(tree.root(size as u64).to_string(), *root, "{size} leaves");
    }
}

#[test]
fn every_proof_of_a_small_tree_holds_and_is_the_one_of_the_other_implementations() {
    let tree = Tree::sized(70);
    let leaves: Vec<Hash> = (0..70).map(|i| leaf_hash(&entry(i))).collect();
    for size in 0..=70_u64 {
        assert_eq!(tree.root(size), naive(&leaves[..size as usize]), "{size}");
        for index in 0..size {
            let (leaf, proof) = (leaves[index as usize], tree.inclusion(index, size));
            verify_inclusion(leaf, index, size, &proof, tree.root(size)).unwrap();
            assert!(other::inclusion(&entry(index), index, size, &proof, tree.root(size)));
        }
        for old in 0..=size {
            let (before, after) = ((old, tree.root(old)), (size, tree.root(size)));
            let proof = tree.consistency(old, size);
            verify_consistency(before, after, &proof).unwrap();
            let trivial = old == 0 || old == size;
            assert!(trivial || other::consistency(before, after, &proof), "{old} {size}");
        }
    }
}

/// The tree as Go's `sumdb/tlog` keeps it, ported by somebody else.
struct Ported(Vec<tlog_tiles::tlog::Hash>);

impl tlog_tiles::HashReader for Ported {
    fn read_hashes(
        &self,
        at: &[u64],
    ) -> Result<Vec<tlog_tiles::tlog::Hash>, tlog_tiles::tlog::Error> {
        Ok(at.iter().map(|index| self.0[*index as usize]).collect())
    }
}

impl Ported {
    fn grow(&mut self, index: u64) {
        let more = tlog_tiles::stored_hashes(index, &entry(index), self).unwrap();
        self.0.extend(more);
    }
}

#[test]
fn roots_and_proofs_agree_with_a_port_of_the_go_checksum_database_at_every_boundary() {
    let sizes = [0, 1, 2, 3, 255, 256, 257, 1_000, 4_097, 65_535, 65_536, 65_537];
    let tree = Tree::sized(65_537);
    let mut other = Ported(Vec::new());
    let mut grown = 0;
    for size in sizes {
        while grown < size {
            other.grow(grown);
            grown += 1;
        }
        let theirs = tlog_tiles::tree_hash(size, &other).unwrap();
        if size == 0 {
            // The Go code leaves the root of nothing undefined; RFC 6962 does not.
            continue;
        }
        assert_eq!(&theirs.0, tree.root(size).as_bytes(), "root of {size}");
        for index in [0, 1, size / 3, size / 2, size.saturating_sub(2), size - 1] {
            let index = index.min(size - 1);
            let ours = tree.inclusion(index, size);
            let proof = tlog_tiles::prove_record(size, index, &other).unwrap();
            assert_eq!(ours.len(), proof.len());
            assert!(ours.iter().zip(&proof).all(|(a, b)| a.as_bytes() == &b.0), "{index}/{size}");
            let leaf = leaf_hash(&entry(index));
            verify_inclusion(leaf, index, size, &ours, tree.root(size)).unwrap();
            assert!(other::inclusion(&entry(index), index, size, &ours, tree.root(size)));
            let old = index + 1;
            let ours = tree.consistency(old, size);
            let proof = tlog_tiles::prove_tree(size, old, &other).unwrap();
            assert!(ours.iter().zip(&proof).all(|(a, b)| a.as_bytes() == &b.0), "{old}/{size}");
            assert_eq!(ours.len(), proof.len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_altered_proof_holds(size in 1..300_u64, at in any::<prop::sample::Index>(), bit in 0..256_usize, pick in any::<prop::sample::Index>()) {
        let tree = Tree::sized(size);
        let index = at.index(size as usize) as u64;
        let (leaf, root) = (leaf_hash(&entry(index)), tree.root(size));
        let proof = tree.inclusion(index, size);
        prop_assert!(verify_inclusion(leaf, index, size, &proof, root).is_ok());
        prop_assert!(verify_inclusion(leaf, index, size, &proof, flip(root, bit)).is_err());
        prop_assert!(verify_inclusion(flip(leaf, bit), index, size, &proof, root).is_err());
        let longer = [proof.as_slice(), &[root]].concat();
        prop_assert!(verify_inclusion(leaf, index, size, &longer, root).is_err());
        if !proof.is_empty() {
            let mut altered = proof.clone();
            let place = pick.index(proof.len());
            altered[place] = flip(altered[place], bit);
            prop_assert!(verify_inclusion(leaf, index, size, &altered, root).is_err());
            prop_assert!(verify_inclusion(leaf, index, size, &proof[1..], root).is_err());
            prop_assert!(verify_inclusion(leaf, (index + 1) % size, size, &proof, root).is_err());
        }
        let old = index + 1;
        let (before, after) = ((old, tree.root(old)), (size, root));
        let proof = tree.consistency(old, size);
        prop_assert!(verify_consistency(before, after, &proof).is_ok());
        prop_assert!(verify_consistency((old, flip(before.1, bit)), after, &proof).is_err());
        prop_assert!(verify_consistency(before, (size, flip(root, bit)), &proof).is_err());
        prop_assert!(verify_consistency(after, before, &proof).is_err() || old == size);
        if !proof.is_empty() {
            let mut altered = proof.clone();
            let place = pick.index(proof.len());
            altered[place] = flip(altered[place], bit);
            prop_assert!(verify_consistency(before, after, &altered).is_err());
        }
    }

    #[test]
    fn a_frontier_that_was_loaded_goes_on_like_one_that_was_kept(size in 0..700_u64, more in 0..300_u64) {
        let tree = Tree::sized(size + more);
        let mut loaded = Frontier::load::<Infallible>(size, &mut |node| Ok(tree.node(node))).unwrap();
        prop_assert_eq!(loaded.root(), tree.root(size));
        for index in size..size + more {
            loaded.push(leaf_hash(&entry(index)), &mut |_, _| {});
        }
        prop_assert_eq!(loaded, tree.frontier);
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[a-z0-9/.+ \n—=]{0,80}") {
        let _ = Note::parse(&bytes);
        let _ = ProofFile::parse(&bytes);
        let _ = tile::entries(&bytes);
        let _ = Note::parse(text.as_bytes());
        let _ = Checkpoint::parse(&text);
        let _ = text.parse::<Tile>();
        let _ = format!("tile/{text}").parse::<Tile>();
        let _ = text.parse::<VerifierKey>();
        let _ = SignerKey::parse(&format!("PRIVATE+KEY+{text}"));
        let _ = ProofFile::parse(format!("c2sp.org/tlog-proof@v1\n{text}").as_bytes());
    }
}

fn flip(hash: Hash, bit: usize) -> Hash {
    let mut bytes = *hash.as_bytes();
    bytes[bit / 8] ^= 1 << (bit % 8);
    Hash::from_bytes(bytes)
}

#[test]
fn a_tile_has_one_name() {
    let tile = |kind, index, width| Tile::new(kind, index, width).unwrap();
    for (tile, path) in [
        (tile(Kind::Hashes(0), 0, 256), "tile/0/000"),
        (tile(Kind::Hashes(0), 1_234_067, 256), "tile/0/x001/x234/067"),
        (tile(Kind::Hashes(1), 273, 112), "tile/1/273.p/112"),
        (tile(Kind::Entries, 1_000, 1), "tile/entries/x001/000.p/1"),
        (tile(Kind::Hashes(63), 999, 255), "tile/63/999.p/255"),
    ] {
        assert_eq!(tile.to_string(), path);
        assert_eq!(path.parse(), Ok(tile));
    }
    for none in [
        "tile/0/x000/001",
        "tile/0/1",
        "tile/0/0001",
        "tile/0/000.p/256",
        "tile/0/000.p/0",
        "tile/0/000.p/01",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/0/001/000",
        "tile/0/x001",
        "tile/0/x001/",
        "tile/0/../000",
        "tile/data/000",
        "tile/8/0/000",
        "tile/0/x999/x999/x999/x999/x999/x999/999",
        "/tile/0/000",
        "tile/0/000/",
        "",
    ] {
        assert_eq!(none.parse::<Tile>(), Err(tile::NoTile), "{none}");
    }
}

#[test]
fn a_log_of_seventy_thousand_entries_has_the_tiles_that_the_specification_counts() {
    let tiles: Vec<Tile> = Tile::all(70_000).collect();
    let of = |kind, full| tiles.iter().filter(|t| t.kind() == kind && t.is_full() == full).count();
    assert_eq!((of(Kind::Entries, true), of(Kind::Entries, false)), (273, 1));
    assert_eq!((of(Kind::Hashes(0), true), of(Kind::Hashes(0), false)), (273, 1));
    assert_eq!((of(Kind::Hashes(1), true), of(Kind::Hashes(1), false)), (1, 1));
    assert_eq!((of(Kind::Hashes(2), true), of(Kind::Hashes(2), false)), (0, 1));
    assert_eq!(tiles.len(), 273 * 2 + 2 + 1 + 1 + 1);
    assert!(tiles.iter().all(|tile| tile.is_in(70_000)));
    assert!(!"tile/0/273.p/113".parse::<Tile>().unwrap().is_in(70_000));
    assert!("tile/0/273.p/3".parse::<Tile>().unwrap().is_in(70_000), "an older view of it");
    assert_eq!(Tile::all(0).count(), 0);
    assert_eq!(tile::stored(Kind::Hashes(2), 65_535), 0);
    assert_eq!(TILE_WIDTH, 256);
}

#[test]
fn a_bundle_gives_back_its_entries_and_refuses_one_that_is_too_long() {
    let mut bundle = Vec::new();
    for entry in [b"a".to_vec(), Vec::new(), vec![b'x'; 65_535]] {
        assert!(tile::push_entry(&mut bundle, &entry));
    }
    let length = bundle.len();
    assert!(!tile::push_entry(&mut bundle, &vec![b'x'; 65_536]));
    assert_eq!(bundle.len(), length);
    let entries = tile::entries(&bundle).unwrap();
    assert_eq!(entries.iter().map(|e| e.len()).collect::<Vec<_>>(), [1, 0, 65_535]);
    assert_eq!(tile::entries(&bundle[..bundle.len() - 1]), None);
}

const GO_PUBLIC: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const GO_SECRET: &str =
    "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
const GO_NOTE: &str = "If you think cryptography is the answer to your problem,\n\
    then you don't know what your problem is.\n\n\
    — PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

#[test]
fn keys_and_notes_are_those_of_the_go_documentation() {
    let secret = SignerKey::parse(GO_SECRET).unwrap();
    assert_eq!(secret.to_secret_text(), GO_SECRET);
    assert_eq!(secret.verifier().to_string(), GO_PUBLIC);
    assert_eq!(GO_PUBLIC.parse(), Ok(secret.verifier()));
    let note = Note::parse(GO_NOTE.as_bytes()).unwrap();
    assert_eq!(note.verify(&secret.verifier()), Ok(()));
    assert_eq!(secret.sign(note.text()).unwrap(), note, "Ed25519 is deterministic");
    assert_eq!(note.to_string(), GO_NOTE);
    assert!(!format!("{secret:?}").contains("AYEK"), "a key does not show itself");
}

fn signer(name: &str, seed: u8) -> SignerKey {
    SignerKey::from_seed(name, &[seed; 32]).unwrap()
}

#[test]
fn another_implementation_accepts_our_notes_and_only_those() {
    let key = signer("log.example/stage", 7);
    let checkpoint =
        Checkpoint { origin: "log.example/stage".into(), size: 9, root: leaf_hash(b"r") };
    let text = checkpoint.sign(&key).unwrap().to_string();
    let verifier = StandardVerifier::new(&key.verifier().to_string()).unwrap();
    let list = VerifierList::new(vec![Box::new(verifier)]);
    let theirs = signed_note::Note::from_bytes(text.as_bytes()).unwrap();
    let (verified, unverified) = theirs.verify(&list).unwrap();
    assert_eq!((verified.len(), unverified.len()), (1, 0));
    let parsed = tlog_tiles::Checkpoint::from_bytes(theirs.text()).unwrap();
    assert_eq!((parsed.origin(), parsed.size()), ("log.example/stage", 9));
    assert_eq!(&parsed.hash().0, checkpoint.root.as_bytes());
    let altered = text.replacen("\n9\n", "\n8\n", 1);
    assert!(signed_note::Note::from_bytes(altered.as_bytes()).unwrap().verify(&list).is_err());
}

#[test]
fn every_flipped_bit_of_a_checkpoint_is_noticed() {
    let key = signer("log.example/stage", 7);
    let sound =
        Checkpoint { origin: key.verifier().name().into(), size: 12, root: leaf_hash(b"r") };
    let bytes = sound.sign(&key).unwrap().to_string().into_bytes();
    let open = |bytes: &[u8]| {
        let note = Note::parse(bytes).map_err(checkpoint::Error::from)?;
        Checkpoint::open(&note, &key.verifier())
    };
    assert_eq!(open(&bytes), Ok(sound));
    for bit in 0..bytes.len() * 8 {
        let mut altered = bytes.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&altered).is_err(), "bit {bit}");
    }
}

#[test]
fn signatures_of_strangers_are_ignored_and_a_forged_one_of_ours_is_not() {
    let (ours, theirs) = (signer("log.example/a", 1), signer("witness.example/w", 2));
    let text = "log.example/a\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";
    let line = |note: Note| note.to_string().lines().last().unwrap().to_owned();
    let (own, foreign) = (line(ours.sign(text).unwrap()), line(theirs.sign(text).unwrap()));
    let both = Note::parse(format!("{text}\n{own}\n{foreign}\n").as_bytes()).unwrap();
    assert_eq!(both.signatures().len(), 2);
    assert_eq!(both.verify(&ours.verifier()), Ok(()));
    assert_eq!(both.verify(&theirs.verifier()), Ok(()));
    let foreign_only = Note::parse(format!("{text}\n{foreign}\n").as_bytes()).unwrap();
    assert_eq!(
        foreign_only.verify(&ours.verifier()),
        Err(note::Error::Unsigned("log.example/a".into()))
    );
    // A sound signature of ours does not make up for one that is not.
    let other = line(ours.sign("log.example/a\n2\nx\n").unwrap());
    let mixed = Note::parse(format!("{text}\n{own}\n{other}\n").as_bytes()).unwrap();
    assert_eq!(mixed.verify(&ours.verifier()), Err(note::Error::Forged("log.example/a".into())));
}

#[test]
fn keys_that_are_none_are_refused() {
    let weak = {
        // The neutral element: every signature of a certain form verifies under it.
        let mut point = [0; 33];
        point[0] = 1;
        point[1] = 1;
        encode(&point)
    };
    for text in [
        "",
        "name",
        "name+c74f20a3",
        "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+AhpcXX",
        "PeterNeumann+c74f20a3+Ahpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        &format!("a+00000000+{weak}"),
    ] {
        assert!(text.parse::<VerifierKey>().is_err(), "{text}");
    }
    for name in ["", "a b", "a+b", "a\nb", "a\u{2003}b", "a\u{1b}b"] {
        assert!(SignerKey::from_seed(name, &[1; 32]).is_err(), "{name:?}");
    }
}

#[test]
fn a_proof_file_convinces_whoever_has_only_the_public_key() {
    let key = signer("log.example/stage", 3);
    let tree = Tree::sized(300);
    let checkpoint =
        Checkpoint { origin: key.verifier().name().into(), size: 300, root: tree.root(300) };
    let file = ProofFile {
        extra: Some(entry(41)),
        index: 41,
        hashes: tree.inclusion(41, 300),
        checkpoint: checkpoint.sign(&key).unwrap(),
    };
    let text = file.to_string();
    assert!(text.starts_with("c2sp.org/tlog-proof@v1\nextra "));
    let read = ProofFile::parse(text.as_bytes()).unwrap();
    assert_eq!(read, file);
    let entry = read.entry().unwrap();
    assert_eq!(read.verify(entry, &key.verifier()), Ok(checkpoint));
    assert!(matches!(read.verify(b"another entry", &key.verifier()), Err(Error::Root { .. })));
    let stranger = signer("log.example/stage", 4).verifier();
    assert!(matches!(read.verify(entry, &stranger), Err(Error::Checkpoint(_))));
    let bare = ProofFile { extra: None, ..read };
    assert_eq!(ProofFile::parse(bare.to_string().as_bytes()), Ok(bare));
    for (from, to) in [
        ("c2sp.org/tlog-proof@v1", "c2sp.org/tlog-proof@v2"),
        ("index 41", "index 041"),
        ("index 41", "index -1"),
        ("index 41", "index 41 "),
        ("extra ", "extra *"),
        ("\n\n", "\n"),
        ("\n\nlog.example", "\nAAAA\n\nlog.example"),
    ] {
        let altered = text.replacen(from, to, 1);
        assert_ne!(altered, text);
        assert!(ProofFile::parse(altered.as_bytes()).is_err(), "{from} -> {to}");
    }
}

#[test]
fn a_checkpoint_of_another_log_does_not_pass_for_ours() {
    let key = signer("log.example/stage", 3);
    let other = Checkpoint { origin: "log.example/prod".into(), size: 0, root: tree::empty_root() };
    assert!(matches!(other.sign(&key), Err(checkpoint::Error::Origin { .. })));
    // Even if the key was made to sign it.
    let note = key.sign(&other.to_string()).unwrap();
    assert!(matches!(
        Checkpoint::open(&note, &key.verifier()),
        Err(checkpoint::Error::Origin { .. })
    ));
    for text in [
        "",
        "a\n",
        "a\n1\n",
        "a\n01\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        "a\n1\nAAAA\n",
        "\n1\nx\n",
    ] {
        assert!(Checkpoint::parse(text).is_err(), "{text:?}");
    }
    let extended = "a\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nmore\n";
    assert_eq!(Checkpoint::parse(extended).unwrap().size, 1);
}

#[test]
fn the_path_of_the_next_leaf_is_the_tree_before_it() {
    let leaf = |index: u64| leaf_hash(&index.to_le_bytes());
    let mut tree = Frontier::new();
    for size in 1_u64..300 {
        tree.push(leaf(size - 1), &mut |_, _| {});
        let mut node = |at: Node| {
            let leaves: Vec<_> =
                (at.index << at.level..(at.index + 1) << at.level).map(leaf).collect();
            perfect_root(&leaves).ok_or(())
        };
        let path = resolve(&inclusion(size, size + 1).unwrap(), &mut node).unwrap();
        assert_eq!(Frontier::of_path(size, &path).unwrap(), tree, "{size}");
        assert_eq!(Frontier::of_path(size, &path[1..]), None);
    }
}
