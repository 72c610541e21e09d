//! The real binary, killed and cut off at random again and again: what was acknowledged is there afterwards, as it was.
//!
//! `AGENTD_KILL_RUNS` and `AGENTD_POWER_RUNS` say how often. The power is cut on a real file system: ext4 in a file, mounted, shut down
//! in the middle of it all without another byte reaching the disk, and mounted again. That needs root; a run without says so.

use std::hash::{BuildHasher as _, RandomState};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::{Options, Server, processes, seq};
use crate::world::World;

fn runs(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |runs| runs.parse().unwrap())
}

/// Xorshift: as random as it has to be, and not the same each time.
struct Random(u64);

impl Random {
    fn new() -> Self {
        Self(RandomState::new().hash_one(std::process::id()) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 8) % limit
    }
}

/// A request that was answered: the record it became, and the word in it.
#[derive(Debug)]
struct Acknowledged {
    seq: u64,
    word: String,
}

/// Asks for one thing after the other while `end` comes after a while, and notes what was answered.
fn write_until(
    server: &Server,
    after: Duration,
    end: impl FnOnce() + Send,
    name: &str,
) -> Vec<Acknowledged> {
    let mut answered = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(after);
            end();
        });
        for i in 0.. {
            let word = format!("{name}-{i}");
            let verb = if i % 2 == 0 { "pause" } else { "resume" };
            let run = server.ctl(&[verb, "--reason", &word, "--timeout", "5s", "-o", "json"]);
            if run.code != 0 {
                break;
            }
            if let Some(seq) = run.json()["seq"].as_u64() {
                answered.push(Acknowledged { seq, word });
            }
        }
    });
    answered
}

/// What is wrong with the log of a server that is up again.
fn lost(server: &Server, acknowledged: &[Acknowledged]) -> Vec<String> {
    let verified = server.ctl(&["proof", "verify", "-o", "json"]);
    if verified.code != 0 {
        // It is read up to the fault, and no further.
        return vec![format!("the log does not verify: {}", verified.stdout)];
    }
    let mut broken = Vec::new();
    let records = server.records();
    for (at, record) in (1..).zip(records.iter()) {
        if seq(record) != at {
            broken.push(format!("record {} stands at {at}", seq(record)));
            break;
        }
    }
    for Acknowledged { seq: wanted, word } in acknowledged {
        let found = records.iter().find(|record| seq(record) == *wanted);
        if !found.is_some_and(|record| record.to_string().contains(word)) {
            broken.push(format!("record {wanted} (`{word}`) was acknowledged and is gone"));
        }
    }
    for Acknowledged { word, .. } in acknowledged {
        let quoted = format!("\"{word}\"");
        let modes = records
            .iter()
            .filter(|r| r["event_name"].as_str().is_some_and(|e| e.starts_with("MODE_")));
        let count = modes.filter(|record| record.to_string().contains(&quoted)).count();
        if count > 1 {
            broken.push(format!("`{word}` was done {count} times"));
        }
    }
    broken
}

#[test]
fn killed_at_any_time_nothing_that_was_acknowledged_is_lost() {
    let (runs, mut random) = (runs("AGENTD_KILL_RUNS", 10), Random::new());
    let mut world = World::with_app();
    let mut acknowledged = Vec::new();
    for run in 0..runs {
        if run % 3 == 0 {
            world.app.kill9();
        }
        let (pid, after) = (world.server.pid(), Duration::from_millis(20 + random.below(900)));
        let kill = move || processes::kill(pid);
        acknowledged.extend(write_until(&world.server, after, kill, &format!("run{run}")));
        world.recover();
        let broken = lost(&world.server, &acknowledged);
        assert!(broken.is_empty(), "run {run}, after {after:?}: {broken:#?}");
    }
    assert!(acknowledged.len() as u64 > runs / 2, "only {} requests", acknowledged.len());
    let _ = world.server.ctl(&["resume", "--reason", "the end"]);
    world.settle();
    assert_eq!(world.broken_promises(), Vec::<String>::new());
    println!("{runs} kills, {} acknowledged requests kept", acknowledged.len());
}

/// A server whose data directory is a file system of its own.
struct Cut {
    // Before the server, whose directory it lies in.
    mount: Mount,
    server: Server,
}

/// An ext4 in a file.
struct Mount {
    image: PathBuf,
    at: PathBuf,
    mounted: bool,
}

fn succeeds(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl Mount {
    fn new(image: PathBuf, at: PathBuf) -> Option<Self> {
        std::fs::File::create(&image).unwrap().set_len(128 << 20).unwrap();
        let made = succeeds("mkfs.ext4", &["-q", "-F", text(&image)]);
        let mut mount = Self { image, at, mounted: false };
        (made && mount.mount() && succeeds("perl", &["-e", "1"])).then_some(mount)
    }

    fn mount(&mut self) -> bool {
        self.mounted = succeeds("mount", &["-o", "loop", text(&self.image), text(&self.at)]);
        self.mounted
    }

    fn unmount(&mut self) {
        if self.mounted {
            assert!(succeeds("umount", &[text(&self.at)]), "{} is busy", self.at.display());
            self.mounted = false;
        }
    }

    /// The power goes: nothing of what is in memory reaches the disk any more (FS_IOC_SHUTDOWN without a flush).
    fn cut(at: &Path) {
        let script =
            "open(F,'<',$ARGV[0]) or die; my $f=pack('L',2); ioctl(F,0x8004587d,$f) or die";
        assert!(succeeds("perl", &["-e", script, text(at)]), "ext4 can be shut down");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted {
            let _ = succeeds("umount", &["-l", text(&self.at)]);
        }
    }
}

impl Cut {
    fn new() -> Option<Self> {
        let mut server = Server::start(Options::default());
        server.stop();
        let (data, aside) = (server.data_dir(), server.dir().join("aside"));
        std::fs::rename(&data, &aside).unwrap();
        std::fs::create_dir(&data).unwrap();
        let mount = Mount::new(server.dir().join("disk.img"), data.clone())?;
        assert!(succeeds("cp", &["-a", &format!("{}/.", text(&aside)), text(&data)]));
        assert!(succeeds("sync", &["-f", text(&data)]));
        server.up();
        Some(Self { mount, server })
    }

    /// Cuts the power while requests are answered, and starts on what the disk has.
    fn run(&mut self, after: Duration, name: &str) -> Vec<Acknowledged> {
        let at = self.mount.at.clone();
        let answered = write_until(&self.server, after, move || Mount::cut(&at), name);
        // Whether it noticed by itself or not: the power is off.
        if self.server.is_up() {
            self.server.kill9();
        } else {
            let _ = self.server.ended();
        }
        self.mount.unmount();
        assert!(self.mount.mount(), "the file system is sound");
        answered
    }
}

fn not_run(what: &str, count: u64) {
    let line =
        format!("\nNOT RUN: {count} {what}: mounting ext4 from a file needs root and mkfs.ext4\n");
    // Not through the macros, which the test harness swallows.
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

#[test]
fn with_the_power_cut_at_any_time_nothing_that_was_acknowledged_is_lost() {
    let (runs, mut random) = (runs("AGENTD_POWER_RUNS", 6), Random::new());
    let Some(mut cut) = Cut::new() else { return not_run("power cuts", runs) };
    let mut acknowledged = Vec::new();
    for run in 0..runs {
        let after = Duration::from_millis(20 + random.below(1_500));
        acknowledged.extend(cut.run(after, &format!("cut{run}")));
        cut.server.up();
        let broken = lost(&cut.server, &acknowledged);
        assert!(broken.is_empty(), "cut {run}, after {after:?}: {broken:#?}");
    }
    assert!(acknowledged.len() as u64 > runs / 2, "only {} requests", acknowledged.len());
    println!("{runs} power cuts, {} acknowledged requests kept", acknowledged.len());
    cut.server.stop();
    cut.mount.unmount();
}

#[test]
fn a_log_that_is_not_synced_does_not_survive_a_power_cut() {
    let Some(mut cut) = Cut::new() else { return not_run("power cut with a planted bug", 1) };
    cut.server.kill9();
    cut.server.arm("journal.skip_fsync=bug");
    cut.server.up();
    let acknowledged = cut.run(Duration::from_millis(1_500), "unsynced");
    assert!(!acknowledged.is_empty(), "it answered as if all were well");
    cut.server.arm("");
    cut.server.up();
    let broken = lost(&cut.server, &acknowledged);
    assert!(!broken.is_empty(), "the check for lost records must see it");
    cut.server.stop();
    cut.mount.unmount();
}
