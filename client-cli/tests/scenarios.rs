//! Every scenario, end to end: a server in this process, real shims and real apps of the real binary, over gRPC.

#[cfg(test)]
mod scenarios {
    mod runs;
    mod server;
}
