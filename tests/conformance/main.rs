//! Logs of awkward sizes, written by the real journal and served by the real tree, for verifiers that share no code with them.
//!
//! `cargo test` alone checks that the logs can be built and read back. With `CONFORMANCE_DIR` set, they are left there for the
//! verifiers in Go, Python and JavaScript beside this file; `tests/conformance/run` does both.

#[cfg(test)]
mod conformance {
    use std::path::Path;

    use agentd::{journal, tlog};
    use agentd_core::chain::{LineVerifier, leaf_hash};
    use agentd_core::tlog::proof::ProofFile;
    use agentd_core::tlog::tile::{Kind, Tile};
    use bytes::Bytes;

    /// Where a verifier of tiles goes wrong first.
    const SIZES: [u64; 9] = [0, 1, 2, 255, 256, 257, 65_535, 65_536, 65_537];

    /// Lines of every length and with every kind of character an entry can hold.
    fn line(chain: &LineVerifier) -> Bytes {
        let (seq, prev) = (chain.next_seq(), chain.head());
        let filler = match seq % 7 {
            0 => "x".repeat(usize::try_from(seq % 900).unwrap()),
            1 => "\u{e9}\u{2014}\u{1f980}".to_owned(),
            2 => "\\\"\\n\\u0000".to_owned(),
            _ => String::new(),
        };
        let line = format!(
            r#"{{"event_name":"HEARTBEAT","env":"stage","seq":{seq},"prev":"{prev}","body":"{filler}"}}"#
        );
        line.into()
    }

    /// A log of `size` records as a static tree in `dir`, every byte of it as it is served. Those before `oldest` are pruned: of them there
    /// are the hashes.
    async fn build(dir: &Path, size: u64, oldest: u64) {
        let data = tempfile::tempdir().unwrap();
        let config = tlog::Config::new(data.path(), "stage");
        let segments = journal::Config::new(config.dir.clone());
        let (opened, tlog) = tlog::open(config, segments, &mut |_, _| {}).unwrap();
        let mut chain = LineVerifier::new();
        let mut entries = Vec::new();
        while chain.next_seq() <= size {
            let first = chain.next_seq();
            let batch: Vec<Bytes> = (first..=size.min(first + 999))
                .map(|_| {
                    let line = line(&chain);
                    chain.check(&line).unwrap();
                    line
                })
                .collect();
            entries.extend(batch.iter().cloned());
            opened.journal.append(first, batch).await.unwrap();
        }
        let published = tlog.publish(size).await.unwrap();
        assert_eq!(published.checkpoint.size, size);
        opened.journal.release(oldest).unwrap();
        tlog::prune_lines(opened.journal.dir(), oldest).unwrap();
        let put = |name: &str, bytes: &[u8]| {
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        };
        put("checkpoint", published.note.to_string().as_bytes());
        put("log.vkey", format!("{}\n", tlog.key()).as_bytes());
        for tile in Tile::all(size) {
            let served = tlog.tile(tile);
            if tile.kind() == Kind::Entries && tile.first() + 1 < oldest {
                let gone = tlog::ReadError::Journal(journal::Error::Pruned { oldest });
                assert_eq!(served.unwrap_err().to_string(), gone.to_string(), "{tile}");
                continue;
            }
            put(&tile.to_string(), &served.unwrap().unwrap());
        }
        for index in [0, 1, size / 3, size / 2, size.saturating_sub(1)] {
            let Some(hashes) = tlog.inclusion(index, size).unwrap() else { continue };
            let entry = &entries[usize::try_from(index).unwrap()];
            let checkpoint = published.note.clone();
            let extra = (index + 1 >= oldest).then(|| entry.to_vec());
            let file = ProofFile { extra, index, hashes, checkpoint };
            file.verify(entry, tlog.key()).unwrap();
            put(&format!("proofs/{index}.tlog-proof"), file.to_string().as_bytes());
        }
        let mut tree = agentd_core::tlog::tree::Frontier::new();
        entries.iter().for_each(|line| tree.push(leaf_hash(line), &mut |_, _| {}));
        assert_eq!(tree.root(), published.checkpoint.root);
    }

    #[tokio::test]
    async fn logs_of_awkward_sizes_are_written_for_the_verifiers_of_others() {
        let kept = std::env::var_os("CONFORMANCE_DIR");
        let scratch = tempfile::tempdir().unwrap();
        let dir = kept.as_ref().map_or(scratch.path(), |dir| Path::new(dir));
        // The large ones only where somebody looks at them.
        let largest = if kept.is_some() { u64::MAX } else { 1_000 };
        let random = u64::from(std::process::id()) % 3_000 + 258;
        for size in SIZES.into_iter().chain([random]).filter(|size| *size <= largest) {
            build(&dir.join("logs").join(size.to_string()), size, 1).await;
        }
        build(&dir.join("pruned"), 700, 513).await;
    }
}
