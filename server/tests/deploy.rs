//! Apps from repositories: fetched by a real git from a real git server, built, started, and everything that can go wrong with it.

#[cfg(test)]
mod deploy {
    mod bad_builds;
    mod bad_repositories;
    mod git;
    mod revisions;
    mod runtimes;
    mod server;
    mod tools;
    mod world;
}
