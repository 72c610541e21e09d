//! Reads a whole log and says how far it is sound: shared by start-up, by recovery after a fault and by verification.
//!
//! A place that holds no sound frame is judged by what comes after it. One write and one sync make a group, so before a later
//! group (or segment) was begun, the group before it had been durable: sound frames of a later group behind the place mean
//! that acknowledged records were altered (*damage*); none mean a group that was never acknowledged (*torn*).

use agentd_core::chain::{self, Hash, LineVerifier};

use super::cut;
use super::frame::{self, BadHeader, Header, Look};
use super::head::HeadMark;
use super::index::{SegmentMap, first_seq_of, segment_name};
use super::store::{Access, Store};
use super::{Damage, Error, LogId, SEGMENT_FILE_BYTES_MAX, Start, Torn};
use crate::failpoint;

/// Receives every sound record in order: seq, leaf hash, line.
pub(super) type OnEntry<'a> = dyn FnMut(u64, Hash, &[u8]) + 'a;

/// How far a log is sound.
#[derive(Debug)]
pub(super) struct LogScan {
    pub(super) segments: Vec<SegmentMap>,
    pub(super) chain: LineVerifier,
    /// Offset of the last group of the last segment: what a crash may have left in the page cache alone.
    pub(super) last_group: u64,
    pub(super) torn: Option<Torn>,
    pub(super) damage: Option<Damage>,
    /// The last record that was read and tells of a cut.
    pub(super) told: Option<u64>,
}

/// How the walk through one segment ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Nothing but zeros after the last group.
    Clean,
    /// A group that is not whole, begins at `at` and has nothing after it.
    Torn { at: usize, why: &'static str },
    /// Acknowledged bytes were altered.
    Damaged { seq: u64, at: usize, why: String },
}

/// Reads the segments of `store` from `start` on. `mark` is what had been acknowledged at least.
pub(super) fn scan_log(
    store: &dyn Store,
    (log_id, start): (LogId, Start),
    mark: Option<HeadMark>,
    on_entry: &mut OnEntry<'_>,
) -> Result<LogScan, Error> {
    let names = store.names().map_err(|e| Error::io("list", "the segments", e))?;
    let mut firsts: Vec<u64> = names.iter().filter_map(|name| first_seq_of(name)).collect();
    firsts.sort_unstable();
    let (unread, chain) = begin(store, &firsts, start)?;
    let firsts = firsts.split_off(unread.len());
    let (last_group, torn, damage, told) = (0, None, None, None);
    let mut scan = LogScan { segments: unread, chain, last_group, torn, damage, told };
    let (mut rewritten, mut told) = (None, None);
    let (mut known, mut fits) = (0, true);
    if let Start::Behind { seq, hash } = start {
        (known, fits) = (seq, scan.chain.next_seq() <= seq || scan.chain.head() == hash);
    }
    let mut on_entry = |seq: u64, hash: Hash, line: &[u8]| {
        if let Some(mark) = mark.filter(|mark| mark.seq == seq && mark.hash != hash) {
            rewritten = Some((seq, mark.hash, hash));
        }
        if cut::is_told_by(line) {
            told = Some(seq);
        }
        match start {
            Start::Behind { seq: behind, hash: wanted } if seq <= behind => {
                fits &= seq < behind || hash == wanted;
            }
            _ => on_entry(seq, hash, line),
        }
    };
    let mut bytes = Vec::new();
    for first_seq in &firsts {
        // A segment is begun when all before it is durable; the mark is written when its record is.
        let sealed = firsts.last() != Some(first_seq);
        let known = Known { sealed, acknowledged: mark.map_or(0, |mark| mark.seq) };
        let segment = Segment { log_id, first_seq: *first_seq, known };
        segment.scan(store, &mut bytes, &mut scan, &mut on_entry)?;
        if scan.damage.is_some() {
            break;
        }
    }
    scan.told = told;
    if let (None, Some((seq, stored, computed))) = (&scan.damage, rewritten) {
        let why =
            format!("the record is not the acknowledged one: stored {stored}, computed {computed}");
        scan.damage = Some(Damage { seq, segment: super::HEAD_FILE.into(), offset: 0, why });
    }
    if !fits || scan.chain.next_seq() <= known {
        return Err(Error::Start { seq: known });
    }
    check_mark(&mut scan, mark);
    Ok(scan)
}

/// The segments that are left for later, and the chain where reading begins. What their headers say is checked when they are read:
/// each by the one behind it.
fn begin(
    store: &dyn Store,
    firsts: &[u64],
    start: Start,
) -> Result<(Vec<SegmentMap>, LineVerifier), Error> {
    let prev_of = |first: u64| -> Result<Option<Hash>, Error> {
        let name = segment_name(first);
        let mut bytes = [0; frame::HEADER_BYTES];
        let file = store.open(&name, Access::Read).map_err(|e| Error::io("open", &name, e))?;
        let read = file.read_at(&mut bytes, 0).map_err(|e| Error::io("read", &name, e))?;
        Ok(Header::decode(bytes.get(..read).unwrap_or_default()).ok().map(|header| header.prev))
    };
    let at = match start {
        Start::First => return Ok((Vec::new(), LineVerifier::new())),
        Start::Kept => 0,
        Start::Behind { seq, .. } => firsts
            .partition_point(|first| *first <= seq.saturating_add(1))
            .checked_sub(1)
            .ok_or(Error::Start { seq })?,
    };
    let Some(first) = firsts.get(at).copied() else { return Ok((Vec::new(), LineVerifier::new())) };
    let mut unread = Vec::new();
    for pair in firsts.get(..=at).unwrap_or_default().windows(2) {
        let [segment, next] = pair else { continue };
        let Some(prev) = prev_of(*segment)? else { return Err(Error::Start { seq: first }) };
        unread.push(SegmentMap::unread(*segment, prev, *next));
    }
    // Without a header that can be read, the walk says what is wrong with it.
    let chain = match prev_of(first)? {
        Some(prev) if first > 1 => LineVerifier::resume(first, prev),
        Some(_) | None => LineVerifier::new(),
    };
    Ok((unread, chain))
}

/// Reads a segment that has others behind it: where its records lie, or what is wrong. `after` is what the next one says of its last
/// record.
pub(super) fn read_sealed(
    store: &dyn Store,
    log_id: LogId,
    segment: &SegmentMap,
    after: Hash,
) -> Result<Result<SegmentMap, Damage>, Error> {
    let SegmentMap { first_seq, prev, next_seq, .. } = *segment;
    let (name, mut bytes) = (segment_name(first_seq), Vec::new());
    let damage = |seq, at: usize, why| {
        Ok(Err(Damage { seq, segment: segment_name(first_seq), offset: at as u64, why }))
    };
    if let Some(why) = load(store, &name, &mut bytes)? {
        return damage(first_seq, 0, why);
    }
    if let Some(why) = check_header(&bytes, Header { log_id, first_seq, prev })? {
        return damage(first_seq, 0, why);
    }
    let known = Known { sealed: true, acknowledged: next_seq.saturating_sub(1) };
    let mut map = SegmentMap::new(first_seq, prev);
    let mut chain = LineVerifier::resume(first_seq, prev);
    match walk(&bytes, known, &mut chain, &mut map, &mut |_, _, _| {}).stop {
        Stop::Clean if chain.next_seq() == next_seq && chain.head() == after => Ok(Ok(map)),
        Stop::Clean => {
            let end = usize::try_from(map.end).unwrap_or(usize::MAX);
            let why = "its end is not what the next segment goes on from".to_owned();
            damage(chain.next_seq().min(next_seq), end, why)
        }
        Stop::Torn { at, why } => damage(chain.next_seq(), at, why.into()),
        Stop::Damaged { seq, at, why } => damage(seq, at, why),
    }
}

/// Records that had been acknowledged and are not there make the log damaged, even with nothing behind them.
fn check_mark(scan: &mut LogScan, mark: Option<HeadMark>) {
    let Some(mark) = mark.filter(|mark| mark.seq >= scan.chain.next_seq()) else { return };
    if scan.damage.is_some() || failpoint::bug("journal.ignore_middle_damage") {
        return;
    }
    scan.damage = Some(Damage {
        seq: scan.chain.next_seq(),
        segment: scan.segments.last().map_or_else(String::new, |s| segment_name(s.first_seq)),
        offset: scan.segments.last().map_or(0, |s| s.end),
        why: format!("the log ends here although records up to {} had been acknowledged", mark.seq),
    });
}

struct Segment {
    log_id: LogId,
    first_seq: u64,
    known: Known,
}

/// What is known about a segment before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    /// A later segment exists, so all of this one had been durable.
    pub(super) sealed: bool,
    /// Records up to this one had been acknowledged.
    pub(super) acknowledged: u64,
}

impl Segment {
    fn scan(
        &self,
        store: &dyn Store,
        bytes: &mut Vec<u8>,
        scan: &mut LogScan,
        on_entry: &mut OnEntry<'_>,
    ) -> Result<(), Error> {
        let name = segment_name(self.first_seq);
        let expected = scan.chain.next_seq();
        if let Some(why) = self.refuse(store, &name, bytes, &scan.chain)? {
            scan.damage = Some(Damage { seq: expected, segment: name, offset: 0, why });
            return Ok(());
        }
        let mut map = SegmentMap::new(self.first_seq, scan.chain.head());
        let walked = walk(bytes, self.known, &mut scan.chain, &mut map, on_entry);
        scan.last_group = walked.last_group as u64;
        match walked.stop {
            Stop::Clean => {}
            Stop::Torn { at, why } => {
                let written = stale_from(bytes, at, self.first_seq).unwrap_or_else(|| {
                    bytes.iter().rposition(|b| *b != 0).map_or(at, |last| last + 1)
                });
                let bytes_cut = written.saturating_sub(at) as u64;
                scan.torn = Some(Torn { segment: name, offset: at as u64, bytes_cut, why });
            }
            Stop::Damaged { seq, at, why } => {
                scan.damage = Some(Damage { seq, segment: name, offset: at as u64, why });
            }
        }
        scan.segments.push(map);
        Ok(())
    }

    /// Why the segment cannot be the next one, if it cannot.
    fn refuse(
        &self,
        store: &dyn Store,
        name: &str,
        bytes: &mut Vec<u8>,
        chain: &LineVerifier,
    ) -> Result<Option<String>, Error> {
        let (log_id, first_seq) = (self.log_id, self.first_seq);
        if first_seq != chain.next_seq() {
            let why = "records are missing or repeated";
            return Ok(Some(format!("the segment begins with record {first_seq}: {why}")));
        }
        if let Some(why) = load(store, name, bytes)? {
            return Ok(Some(why));
        }
        check_header(bytes, Header { log_id, first_seq, prev: chain.head() })
    }
}

/// Fills `bytes` with the file; `Some` says why it cannot be a segment.
pub(super) fn load(
    store: &dyn Store,
    name: &str,
    bytes: &mut Vec<u8>,
) -> Result<Option<String>, Error> {
    let file = store.open(name, Access::Read).map_err(|e| Error::io("open", name, e))?;
    let len = file.len().map_err(|e| Error::io("measure", name, e))?;
    if len > SEGMENT_FILE_BYTES_MAX {
        return Ok(Some(format!(
            "the segment is {len} bytes long, longer than any that is written"
        )));
    }
    // The buffer is kept between segments, so its memory is cleared once.
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    if bytes.len() < len {
        bytes.resize(len, 0);
    }
    let read = file.read_at(bytes.get_mut(..len).unwrap_or_default(), 0);
    bytes.truncate(read.map_err(|e| Error::io("read", name, e))?);
    Ok(None)
}

/// `Some` says why the header is not the `expected` one.
pub(super) fn check_header(bytes: &[u8], expected: Header) -> Result<Option<String>, Error> {
    Ok(match Header::decode(bytes) {
        Ok(found) if found == expected => None,
        Ok(found) if found.log_id != expected.log_id => {
            Some(format!("the segment belongs to another log, `{}`", found.log_id))
        }
        Ok(found) if found.first_seq != expected.first_seq => {
            Some(format!("the segment holds records from {} on: renamed", found.first_seq))
        }
        Ok(found) => Some(format!(
            "the record before is not the one the segment was chained to: stored {}, computed {}",
            found.prev, expected.prev
        )),
        Err(BadHeader::Damaged(why)) => Some(why.to_owned()),
        Err(BadHeader::Version(found)) => {
            return Err(Error::Version { found, supported: frame::FORMAT_VERSION });
        }
    })
}

/// Reads one segment again, up to the end of its durable records, which are known. Continues `chain`.
pub(super) fn recheck(
    store: &dyn Store,
    log_id: LogId,
    map: &SegmentMap,
    chain: &mut LineVerifier,
    bytes: &mut Vec<u8>,
) -> Result<Option<Damage>, Error> {
    let name = segment_name(map.first_seq);
    let damage = |seq, at: usize, why| {
        Ok(Some(Damage { seq, segment: name.clone(), offset: at as u64, why }))
    };
    if let Some(why) = load(store, &name, bytes)? {
        return damage(map.first_seq, 0, why);
    }
    bytes.truncate(usize::try_from(map.end).unwrap_or(usize::MAX));
    let header = Header { log_id, first_seq: map.first_seq, prev: chain.head() };
    if let Some(why) = check_header(bytes, header)? {
        return damage(map.first_seq, 0, why);
    }
    let known = Known { sealed: false, acknowledged: map.next_seq.saturating_sub(1) };
    let mut again = SegmentMap::new(map.first_seq, map.prev);
    match walk(bytes, known, chain, &mut again, &mut |_, _, _| {}).stop {
        Stop::Clean if chain.next_seq() == map.next_seq => Ok(None),
        Stop::Clean => {
            damage(chain.next_seq(), bytes.len(), "acknowledged records are gone".into())
        }
        Stop::Torn { at, why } => damage(chain.next_seq(), at, why.into()),
        Stop::Damaged { seq, at, why } => damage(seq, at, why),
    }
}

/// What a walk through one segment found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Walked {
    /// Offset of the last whole group.
    pub(super) last_group: usize,
    pub(super) stop: Stop,
}

/// Walks the groups of one segment and hands out its records.
pub(super) fn walk(
    bytes: &[u8],
    known: Known,
    chain: &mut LineVerifier,
    map: &mut SegmentMap,
    on_entry: &mut OnEntry<'_>,
) -> Walked {
    let mut at = frame::HEADER_BYTES;
    let mut last_group = at;
    loop {
        let mut group = Group::read(bytes, at, chain.next_seq(), map.first_seq);
        let stop = match group.flaw {
            None => None,
            Some(Flaw::End)
                if group.frames.is_empty() && nothing_follows(bytes, at, known, map, chain) =>
            {
                Some(Stop::Clean)
            }
            Some(flaw) => Some(judge(bytes, known, chain.next_seq(), &group, flaw)),
        };
        // What is sound in a damaged group had been acknowledged and can be read; a torn group is cut as a whole.
        if matches!(stop, Some(Stop::Torn { .. } | Stop::Clean)) {
            group.frames.clear();
        }
        if let Some(stop) = deliver(&group, chain, map, on_entry).or(stop) {
            return Walked { last_group, stop };
        }
        last_group = at;
        at = group.end;
    }
}

/// Whether what stands behind the zeros at `at` was written in this life of the segment: zeros were not, and neither were the
/// stale records of an earlier life, which are all older than the first one here.
fn nothing_follows(
    bytes: &[u8],
    at: usize,
    known: Known,
    map: &SegmentMap,
    chain: &LineVerifier,
) -> bool {
    if bytes.get(at..).unwrap_or_default().iter().all(|b| *b == 0) {
        return true;
    }
    if find_frame(bytes, at, &|frame| frame.seq >= chain.next_seq()).is_some() {
        return false;
    }
    // All of a sealed segment had been durable, with the zeros that end it: the next one says whether records are missing.
    known.sealed || stale_from(bytes, at, map.first_seq).is_some()
}

/// Where the first record of an earlier life of the segment stands behind `at`.
fn stale_from(bytes: &[u8], at: usize, first_seq: u64) -> Option<usize> {
    find_frame(bytes, at, &|frame| frame.seq < first_seq).map(|(at, _)| at)
}

/// The first sound frame behind `at` that is `wanted`, and its number. Frames begin at multiples of eight.
fn find_frame(
    bytes: &[u8],
    at: usize,
    wanted: &dyn Fn(&frame::Frame<'_>) -> bool,
) -> Option<(usize, u64)> {
    let mut at = at.next_multiple_of(8);
    while at + frame::FRAME_HEAD_BYTES <= bytes.len() {
        match frame::look(bytes, at) {
            Look::Frame(f) if wanted(&f) => return Some((at, f.seq)),
            Look::Frame(f) => at = f.end,
            _ => at += 8,
        }
    }
    None
}

/// The frames of one group, as far as they are sound.
struct Group<'a> {
    start: usize,
    frames: Vec<(usize, frame::Frame<'a>)>,
    end: usize,
    flaw: Option<Flaw>,
}

#[derive(Clone, Copy)]
enum Flaw {
    /// Nothing was written here.
    End,
    /// Something was, and it is not a frame.
    Bad(&'static str),
    /// A sound frame that does not belong here.
    Stray { seq: u64 },
}

impl<'a> Group<'a> {
    fn read(bytes: &'a [u8], start: usize, first_seq: u64, segment: u64) -> Self {
        let mut group = Self { start, frames: Vec::new(), end: start, flaw: None };
        loop {
            let index = group.frames.len() as u64;
            group.flaw = match frame::look(bytes, group.end) {
                Look::Frame(f) if f.seq == first_seq + index && u64::from(f.index) == index => {
                    group.frames.push((group.end, f));
                    group.end = f.end;
                    if !f.ends_group {
                        continue;
                    }
                    None
                }
                Look::Frame(f) if f.seq < segment => Some(Flaw::Bad("stale bytes follow a group")),
                Look::Frame(f) => Some(Flaw::Stray { seq: f.seq }),
                Look::Empty => Some(Flaw::End),
                Look::Cut(_) => Some(Flaw::Bad("the file ends within a frame")),
                Look::Bad(why) => Some(Flaw::Bad(why)),
            };
            return group;
        }
    }
}

/// Tells a torn tail from damage.
fn judge(bytes: &[u8], known: Known, first_seq: u64, group: &Group<'_>, flaw: Flaw) -> Stop {
    let seq = first_seq + group.frames.len() as u64;
    let at = group.end;
    let why = match flaw {
        // Tearing leaves frames out; it does not make sound ones with a wrong number.
        Flaw::Stray { seq: found } => {
            let why = format!("record {found} stands where record {seq} should be");
            return Stop::Damaged { seq, at, why };
        }
        Flaw::End => "a group without its end",
        Flaw::Bad(why) => why,
    };
    let torn = Stop::Torn { at: group.start, why };
    if failpoint::bug("journal.ignore_middle_damage") {
        return torn;
    }
    if known.sealed {
        return Stop::Damaged { seq, at, why: format!("{why}, although a later segment exists") };
    }
    let acknowledged = known.acknowledged;
    if first_seq <= acknowledged {
        let why = format!("{why}, although records up to {acknowledged} had been acknowledged");
        return Stop::Damaged { seq, at, why };
    }
    match find_later_group(bytes, at, first_seq) {
        Some(later) => Stop::Damaged {
            seq,
            at,
            why: format!("{why}, and record {later} of a later group follows"),
        },
        None => torn,
    }
}

/// The first record behind `at` whose group is later than the one that begins with `first_seq`.
fn find_later_group(bytes: &[u8], at: usize, first_seq: u64) -> Option<u64> {
    let later = |frame: &frame::Frame<'_>| frame.group().is_some_and(|group| group > first_seq);
    find_frame(bytes, at, &later).map(|(_, seq)| seq)
}

/// Checks the links of a group as a whole, then hands its records out.
fn deliver(
    group: &Group<'_>,
    chain: &mut LineVerifier,
    map: &mut SegmentMap,
    on_entry: &mut OnEntry<'_>,
) -> Option<Stop> {
    for (at, frame) in &group.frames {
        let (seq, before) = (frame.seq, *chain);
        let why = match chain.check(frame.line) {
            Ok(hash) if hash == frame.hash => {
                map.push(*at as u64, frame.end as u64);
                on_entry(seq, hash, frame.line);
                continue;
            }
            Ok(hash) => format!("the leaf hash differs: stored {}, computed {hash}", frame.hash),
            Err(chain::Error::Prev { stored, computed, .. }) => {
                format!(
                    "the link to the record before differs: stored {stored}, computed {computed}"
                )
            }
            Err(error) => error.to_string(),
        };
        *chain = before;
        return Some(Stop::Damaged { seq, at: *at, why });
    }
    None
}
