//! Real processes under real shims: the traps of process supervision, one story each.

#[cfg(test)]
mod process {
    mod faults;
    mod lifecycle;
    mod output;
    mod rollouts;
    mod sockets;
    mod world;
}
