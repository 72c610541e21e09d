//! The one thread that writes: drains what is queued, makes it durable as one group, then acknowledges.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use agentd_core::chain::LineVerifier;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::cut;
use super::frame::{self, Header};
use super::group::Group;
use super::head::HeadMark;
use super::index::{SegmentMap, Shared, segment_name};
use super::scan::{self, LogScan};
use super::segment::{Active, Fault, Left, Place};
use super::spare::UNREADY;
use super::store::StoredFile;
use super::{Config, Durable, Error, Status};
use crate::failpoint;

/// No further append joins a group of this many bytes.
const GROUP_BYTES: usize = 1 << 20;
/// How long the thread looks for the next append before it sleeps.
const LOOK_OUT: Duration = Duration::from_micros(50);

/// How long the thread looks for one more append of those that come back together, and for all of them: less than a sync takes.
const GAP: Duration = Duration::from_micros(20);
const ROUND: Duration = Duration::from_micros(200);

/// What the handles ask for.
#[derive(Debug)]
pub(super) enum Command {
    Append(Append),
    Recover(oneshot::Sender<Result<(), Error>>),
}

/// Lines that become durable together or not at all.
#[derive(Debug)]
pub(super) struct Append {
    pub(super) first_seq: u64,
    pub(super) lines: Vec<Bytes>,
    /// May use the space kept for what is already under way.
    pub(super) reserve: bool,
    pub(super) reply: oneshot::Sender<Result<Durable, Error>>,
    /// Its share of the bytes that may wait.
    pub(super) _room: OwnedSemaphorePermit,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Health {
    Writable,
    /// Nothing is wrong with what is there; only the reserve is left to write in.
    NoRoom(String),
    /// The segment has to be opened afresh.
    Unsettled(String),
    /// A sync failed: nothing is written, synced or answered any more.
    Ended,
}

#[derive(Debug)]
pub(super) struct Writer {
    config: Config,
    shared: Arc<Shared>,
    active: Option<Active>,
    /// Where the last segment stands, also while it is not open.
    place: Option<Place>,
    chain: LineVerifier,
    health: Health,
    head_file: Option<Box<dyn StoredFile>>,
    buffer: Vec<u8>,
    /// Where a spare is asked for; none are made without it.
    want_spare: Option<SyncSender<()>>,
}

impl Writer {
    /// A writer behind the records that `scan` found.
    pub(super) fn new(config: Config, shared: Arc<Shared>, scan: &LogScan) -> Self {
        let place = scan.segments.last().map(|last| Place {
            first_seq: last.first_seq,
            prev: last.prev,
            tail: last.end,
            last_group: scan.last_group,
        });
        let health = Health::Unsettled("the proof log is being opened".into());
        let (active, head_file, buffer) = (None, None, Vec::new());
        let (chain, want_spare) = (scan.chain, None);
        Self { config, shared, active, place, chain, health, head_file, buffer, want_spare }
    }

    /// Asks here for the segments it needs next.
    pub(super) fn with_spares(mut self, want: SyncSender<()>) -> Self {
        self.want_spare = Some(want);
        self
    }

    /// Opens the last segment, which was just read, for writing.
    pub(super) fn start(&mut self) -> Result<(), Fault> {
        let done = self.try_settle(false);
        self.settled(done)
    }

    /// Serves commands until no handle is left.
    pub(super) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let (mut held, mut joined) = (None, 0);
        while self.health != Health::Ended
            && let Some(command) = held.take().or_else(|| next(&mut commands))
        {
            match command {
                Command::Recover(reply) => {
                    let _ = reply.send(self.recover());
                }
                Command::Append(first) => {
                    let reserve = first.reserve;
                    let (group, next) = self.gather(first, &mut commands, joined);
                    (joined, held) = (group.waiting.len(), next);
                    self.commit(group, reserve);
                    self.prepare();
                }
            }
        }
        // What was on its way when the log ended is let go of too: whoever sent it would wait for its answer for ever.
        commands.close();
        while commands.blocking_recv().is_some() {}
    }

    /// The group that begins with `first`: all that waits, and what comes right behind it while it is smaller than the group before, of
    /// `joined` appends. Whoever waited for that one was woken with it and comes back with it: a sync for the first few of them alone
    /// would have all others wait for two. Also gives what came and cannot join.
    fn gather(
        &mut self,
        first: Append,
        commands: &mut mpsc::Receiver<Command>,
        joined: usize,
    ) -> (Group, Option<Command>) {
        let mut group = Group::new(self.chain, std::mem::take(&mut self.buffer));
        let reserve = first.reserve;
        self.admit(&mut group, first);
        let begun = Instant::now();
        let mut arrived = begun;
        while group.bytes.len() < GROUP_BYTES {
            match commands.try_recv() {
                Ok(Command::Append(next)) if next.reserve == reserve => {
                    self.admit(&mut group, next);
                    arrived = Instant::now();
                }
                Ok(other) => return (group, Some(other)),
                Err(mpsc::error::TryRecvError::Empty)
                    if group.waiting.len() < joined
                        && arrived.elapsed() < GAP
                        && begun.elapsed() < ROUND =>
                {
                    std::hint::spin_loop();
                }
                Err(_) => break,
            }
        }
        (group, None)
    }

    fn admit(&self, group: &mut Group, append: Append) {
        match self.refusal(append.reserve) {
            None => group.admit(append),
            Some(error) => _ = append.reply.send(Err(error)),
        }
    }

    /// Makes the group durable, then answers.
    fn commit(&mut self, mut group: Group, reserve: bool) {
        if !group.frames.is_empty() {
            if failpoint::bug("journal.ack_before_sync") {
                group.acknowledge();
            }
            match self.write(&mut group, reserve) {
                Ok(()) => self.written(&mut group),
                Err(fault) => {
                    let reason = fault.reason.clone();
                    self.fail(fault);
                    if self.health == Health::Ended {
                        return;
                    }
                    group.refuse(&reason);
                }
            }
        }
        self.buffer = group.bytes;
        // One large group must not keep its memory for good.
        self.buffer.shrink_to(2 * GROUP_BYTES);
    }

    fn written(&mut self, group: &mut Group) {
        self.chain = group.chain;
        if let Some(place) = self.place {
            self.shared.publish(place, &group.frames, group.chain);
        }
        let _ = failpoint::hit("journal.before_ack");
        group.acknowledge();
        let _ = failpoint::hit("journal.after_ack");
        self.save_mark();
        self.forget_cuts(group);
    }

    /// Once a record tells of them, the note of what was cut goes. Where it stays, it goes with the next records.
    fn forget_cuts(&mut self, group: &Group) {
        let noted = {
            let mut cuts = self.shared.cuts();
            if cuts.untold().is_some() && group.lines().any(cut::is_told_by) {
                cuts.told();
            }
            let told = cuts.untold().is_none();
            if told { cuts.note(self.shared.store.as_ref()) } else { Ok(()) }
        };
        match noted {
            Err(fault) if fault.left == Left::Unsynced => self.fail(fault),
            Err(Fault { reason, .. }) => tracing::warn!(%reason, "a note stays that is of no use"),
            Ok(()) => {}
        }
    }

    /// Why nothing can be appended now, if so.
    fn refusal(&self, reserve: bool) -> Option<Error> {
        // Found at the start, or by a reader since.
        if let Status::Damaged(damage) = self.shared.status() {
            return Some(Error::Damaged(damage));
        }
        match &self.health {
            Health::Writable => None,
            Health::NoRoom(_) if reserve => None,
            Health::NoRoom(reason) | Health::Unsettled(reason) => {
                Some(Error::Unwritable { reason: reason.clone() })
            }
            Health::Ended => Some(Error::Closed),
        }
    }

    /// Writes and syncs one group; its frames are then where they say.
    fn write(&mut self, group: &mut Group, reserve: bool) -> Result<(), Fault> {
        group.close();
        let tail = self.write_bytes(&mut group.bytes, reserve)?;
        for (offset, end) in &mut group.frames {
            (*offset, *end) = (*offset + tail, *end + tail);
        }
        Ok(())
    }

    fn write_bytes(&mut self, bytes: &mut Vec<u8>, reserve: bool) -> Result<u64, Fault> {
        if let Err(fault) = self.make_room(bytes.len() as u64) {
            let fits = self.active.as_ref().is_some_and(|a| bytes.len() as u64 <= a.ahead());
            if fault.left != Left::Settled || !reserve || !fits {
                return Err(fault);
            }
            self.fail(fault);
        }
        let active = self.active.as_mut().ok_or_else(not_open)?;
        let tail = active.place().tail;
        active.write_group(bytes)?;
        self.place = Some(active.place());
        Ok(tail)
    }

    /// Makes sure that `len` bytes fit in front of the reserve, in this segment or in the next.
    fn make_room(&mut self, len: u64) -> Result<(), Fault> {
        let Config { segment_bytes, zero_ahead_bytes, reserve_bytes, .. } = self.config;
        let ahead = len.max(zero_ahead_bytes).saturating_add(reserve_bytes);
        let needed = len.saturating_add(reserve_bytes);
        let active = self.active.as_mut().ok_or_else(not_open)?;
        let full = active.place().tail.saturating_add(len) > segment_bytes;
        // Rather than stop for space, it goes on in a segment that has it; but not in many small ones.
        let short = active.ahead() < needed && active.place().tail > segment_bytes / 4;
        if !active.is_empty() && (full || short && self.shared.spares.is_ready()) {
            let next = match self.adopt_spare(needed)? {
                Some(next) => next,
                None => self.create_segment(ahead)?,
            };
            if let Some(full) = self.active.replace(next) {
                full.seal();
            }
            return Ok(());
        }
        if active.ahead() < needed {
            active.extend(ahead)?;
        }
        Ok(())
    }

    /// The next segment, of a spare if there is one with `needed` bytes behind the header.
    fn adopt_spare(&self, needed: u64) -> Result<Option<Active>, Fault> {
        let needed = needed.saturating_add(frame::HEADER_BYTES as u64);
        let Some((name, file, claimed)) = self.shared.spares.take(needed) else { return Ok(None) };
        Active::adopt(&self.shared.store, (&name, file), self.next_header(), claimed).map(Some)
    }

    fn create_segment(&self, ahead: u64) -> Result<Active, Fault> {
        Active::create(&self.shared.store, self.next_header(), ahead)
    }

    fn next_header(&self) -> Header {
        let (log_id, first_seq) = (self.shared.log_id, self.chain.next_seq());
        Header { log_id, first_seq, prev: self.chain.head() }
    }

    /// Zeroes ahead after the acknowledgement, so that the next group finds the space ready.
    fn prepare(&mut self) {
        let Config { segment_bytes, zero_ahead_bytes, reserve_bytes, .. } = self.config;
        if self.health != Health::Writable {
            return;
        }
        let Some(active) = self.active.as_mut() else { return };
        let tail = active.place().tail;
        let left = segment_bytes.saturating_sub(tail).min(zero_ahead_bytes);
        let enough = active.ahead() >= reserve_bytes.saturating_add(left / 2);
        let advanced = tail > segment_bytes / 4;
        let spare = advanced && self.shared.spares.is_ready();
        if !spare && (!enough || advanced) {
            // Full means that one is being made.
            let _ = self.want_spare.as_ref().map(|want| want.try_send(()));
        }
        if enough || spare {
            return;
        }
        match active.extend(reserve_bytes.saturating_add(left)) {
            Err(fault) if fault.left != Left::Settled => self.fail(fault),
            // What is left in front of the reserve can be used up first.
            Err(_) | Ok(()) => {}
        }
    }

    fn fail(&mut self, fault: Fault) {
        let Fault { reason, left } = fault;
        if left == Left::Unsynced {
            self.shared.store.end_process(&reason);
            (self.active, self.health) = (None, Health::Ended);
            return;
        }
        self.shared.set_status(Status::Unwritable { reason: reason.clone() });
        self.health = if left == Left::Settled {
            Health::NoRoom(reason)
        } else {
            self.active = None;
            Health::Unsettled(reason)
        };
    }

    fn recover(&mut self) -> Result<(), Error> {
        if let Status::Damaged(damage) = self.shared.status() {
            return Err(Error::Damaged(damage));
        }
        let done = match &self.health {
            Health::Writable => {
                // Nothing of it is in doubt: somebody held it.
                self.shared.set_status(Status::Writable);
                return Ok(());
            }
            Health::NoRoom(_) => self.make_room(self.config.zero_ahead_bytes),
            Health::Unsettled(_) => self.try_settle(true),
            Health::Ended => return Err(Error::Closed),
        };
        self.settled(done).map_err(|Fault { reason, left }| match self.shared.status() {
            Status::Damaged(damage) => Error::Damaged(damage),
            _ if left == Left::Unsynced => Error::Closed,
            Status::Writable | Status::Unwritable { .. } => Error::Unwritable { reason },
        })
    }

    fn settled(&mut self, done: Result<(), Fault>) -> Result<(), Fault> {
        match done {
            Ok(()) => {
                self.place = self.active.as_ref().map(Active::place);
                self.health = Health::Writable;
                self.shared.set_status(Status::Writable);
                self.save_mark();
                Ok(())
            }
            Err(fault) => {
                self.fail(fault.clone());
                Err(fault)
            }
        }
    }

    /// Opens the last segment through a fresh descriptor and makes the disk agree with what was acknowledged. With `reread`
    /// it first makes sure that all of it is still there.
    fn try_settle(&mut self, reread: bool) -> Result<(), Fault> {
        self.active = None;
        self.remove_leftovers(!reread)?;
        let ahead = self.config.zero_ahead_bytes.saturating_add(self.config.reserve_bytes);
        let active = match self.place {
            None => self.create_segment(ahead).map_err(|fault| match fault.left {
                // There is no segment that could be written.
                Left::Settled => Fault { left: Left::Unsettled, ..fault },
                Left::Unsettled | Left::Unsynced => fault,
            })?,
            Some(place) => {
                if reread {
                    self.reread(place)?;
                }
                // The note comes before the cut: who cuts and dies leaves it to the next start to tell.
                let (store, mut cuts) = (&self.shared.store, self.shared.cuts());
                cuts.note(store.as_ref())?;
                let active = Active::reopen(store, place, ahead)?;
                cuts.done();
                cuts.note(store.as_ref())?;
                active
            }
        };
        self.active.insert(active).extend(ahead)
    }

    /// Removes half-made segments, and a segment that was named but never came into use. Half-made spares only `at_start`: later
    /// the thread that makes them may be at it.
    fn remove_leftovers(&self, at_start: bool) -> Result<(), Fault> {
        const WHAT: &str = "clear the directory of the proof log";
        let store = &self.shared.store;
        let unused = self.place.map(|place| place.first_seq) != Some(self.chain.next_seq());
        let unused = unused.then(|| segment_name(self.chain.next_seq()));
        let names = store.names().map_err(Fault::unsettled(WHAT))?;
        let leftovers = names.iter().filter(|name| {
            let half_made = name.ends_with(".seg.tmp") || at_start && name.ends_with(UNREADY);
            half_made || *name == cut::UNREADY || Some(name.as_str()) == unused.as_deref()
        });
        let mut removed = false;
        for name in leftovers {
            store.remove(name).map_err(Fault::unsettled(WHAT))?;
            removed = true;
        }
        if removed { store.sync_names().map_err(Fault::unsynced(WHAT)) } else { Ok(()) }
    }

    /// Reads the last segment again: what was acknowledged must be there; what was not may be, and is cut by the caller.
    fn reread(&mut self, place: Place) -> Result<(), Fault> {
        let (segments, head) = self.shared.segments();
        let map = segments.last().filter(|last| last.first_seq == place.first_seq).cloned();
        let map = map.unwrap_or_else(|| SegmentMap::new(place.first_seq, place.prev));
        let mut chain = LineVerifier::resume(place.first_seq, place.prev);
        let store = self.shared.store.as_ref();
        let found = scan::recheck(store, self.shared.log_id, &map, &mut chain, &mut Vec::new());
        let reason = match found {
            Ok(None) if chain.head() == head => return Ok(()),
            Ok(None) => "the last segment does not end with the last acknowledged record".into(),
            Ok(Some(damage)) => self.shared.damaged(damage).to_string(),
            Err(Error::Io { verb, what, source }) => format!("cannot {verb} {what}: {source}"),
            Err(other) => other.to_string(),
        };
        Err(Fault { reason, left: Left::Unsettled })
    }

    /// Notes the last durable record beside the log. Never synced and never relied on to be there, so a failure only loses
    /// the ability to tell a lost tail from a torn one.
    fn save_mark(&mut self) {
        let store = self.shared.store.as_ref();
        let mark =
            HeadMark { seq: self.chain.next_seq().saturating_sub(1), hash: self.chain.head() };
        if self.head_file.is_none() {
            self.head_file = HeadMark::open(store).ok();
        }
        if let Some(file) = &self.head_file
            && let Err(error) = mark.save(file.as_ref())
        {
            tracing::warn!(%error, "cannot note the head of the proof log");
            self.head_file = None;
        }
    }
}

/// The next command. Whoever waits for one record after the other sends the next one right away: waking a thread would take as
/// long as the disk does, so it is looked for a moment before sleeping.
fn next(commands: &mut mpsc::Receiver<Command>) -> Option<Command> {
    let begun = Instant::now();
    while begun.elapsed() < LOOK_OUT {
        match commands.try_recv() {
            Ok(command) => return Some(command),
            Err(mpsc::error::TryRecvError::Empty) => std::hint::spin_loop(),
            Err(mpsc::error::TryRecvError::Disconnected) => return None,
        }
    }
    commands.blocking_recv()
}

fn not_open() -> Fault {
    Fault { reason: "the last segment is not open".into(), left: Left::Unsettled }
}
