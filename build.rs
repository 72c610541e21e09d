//! Compiles `proto/` into the API: protox reads the files, so that no `protoc` is needed on the machine.

use std::error::Error;
use std::path::{Path, PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    let include = Path::new("proto");
    let directory = include.join("agentctl").join("v1");
    println!("cargo::rerun-if-changed={}", directory.display());

    let mut files = Vec::new();
    for entry in std::fs::read_dir(&directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "proto") {
            println!("cargo::rerun-if-changed={}", path.display());
            files.push(path);
        }
    }
    // Directory order differs between machines; the descriptor set must not.
    files.sort();

    let mut compiler = protox::Compiler::new([include])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    // Not `file_descriptor_set()`: only the encoded form keeps custom options.
    let descriptor_set = compiler.encode_file_descriptor_set();

    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("agentctl_v1_descriptor.bin"), &descriptor_set)?;

    tonic_prost_build::configure()
        .btree_map(".")
        // By far the largest variants: the rest of the stream need not pay for them.
        .boxed("agentctl.v1.WatchDecisionsResponse.item.decision")
        .boxed("agentctl.v1.WatchDecisionsResponse.item.snapshot_item")
        .build_client(true)
        .build_server(true)
        .compile_fds(prost_types::FileDescriptorSet::decode(descriptor_set.as_slice())?)?;
    Ok(())
}
