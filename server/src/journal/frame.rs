//! The bytes of a segment file: one header, then frames. Pure functions over byte slices.
//!
//! ```text
//! header  magic 8 | version u32 | length u32 | log id 16 | first seq u64 | hash of the record before 32 | crc32c u32 | 0 u32
//! frame   length u32 | crc32c u32 | seq u64 | index u32 | kind u8 | 0 0 0 | leaf hash 32 | line | zeros to a multiple of 8
//! ```
//!
//! Integers are little endian. A checksum covers every other byte of its header or frame, padding included. A *group* is what
//! one write and one sync made durable together; `index` counts within it, so `seq - index` is the first record of the group
//! and names it, and `kind` marks its last frame. A line is JSON text without control characters, so no line can contain the
//! zero bytes of a frame: a search for frames in damaged bytes does not find forged ones inside of lines.

use agentd_core::chain::{Hash, LINE_BYTES_MAX};

use super::LogId;

/// Format of segments this program writes and reads.
pub(super) const FORMAT_VERSION: u32 = 1;
/// Bytes of a segment header.
pub(super) const HEADER_BYTES: usize = 80;
/// Bytes of a frame before its line.
pub(super) const FRAME_HEAD_BYTES: usize = 56;
/// The longest frame.
pub(super) const FRAME_BYTES_MAX: usize = frame_bytes(LINE_BYTES_MAX);

const MAGIC: [u8; 8] = *b"AGENTLOG";
const KIND_ENTRY: u8 = 1;
const KIND_LAST_OF_GROUP: u8 = 2;

/// Bytes a line takes on disk.
pub(super) const fn frame_bytes(line_bytes: usize) -> usize {
    (FRAME_HEAD_BYTES + line_bytes).next_multiple_of(8)
}

/// What a segment says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) log_id: LogId,
    pub(super) first_seq: u64,
    /// Leaf hash of the record before `first_seq`.
    pub(super) prev: Hash,
}

/// Why a header cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BadHeader {
    /// Written by a later version.
    Version(u32),
    /// Not a header, or altered.
    Damaged(&'static str),
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&(HEADER_BYTES as u32).to_le_bytes());
        bytes.extend_from_slice(self.log_id.as_bytes());
        bytes.extend_from_slice(&self.first_seq.to_le_bytes());
        bytes.extend_from_slice(self.prev.as_bytes());
        close(bytes, HEADER_BYTES)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BadHeader> {
        const SHORT: BadHeader = BadHeader::Damaged("the segment header is cut short");
        if array::<8>(bytes, 0).ok_or(SHORT)? != MAGIC {
            return Err(BadHeader::Damaged("not a segment of a proof log"));
        }
        let version = u32_at(bytes, 8).ok_or(SHORT)?;
        let length = u32_at(bytes, 12).ok_or(SHORT)?;
        let header = Self {
            log_id: LogId::from_bytes(array(bytes, 16).ok_or(SHORT)?),
            first_seq: u64_at(bytes, 32).ok_or(SHORT)?,
            prev: Hash::from_bytes(array(bytes, 40).ok_or(SHORT)?),
        };
        let pad = u32_at(bytes, 76).ok_or(SHORT)?;
        if !is_closed(bytes, 72) || pad != 0 {
            return Err(BadHeader::Damaged("the checksum of the segment header does not match"));
        }
        if version != FORMAT_VERSION {
            return Err(BadHeader::Version(version));
        }
        if length as usize != HEADER_BYTES {
            return Err(BadHeader::Damaged("the segment header has an unknown length"));
        }
        Ok(header)
    }
}

/// One frame, borrowed from the bytes it was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) seq: u64,
    pub(super) index: u32,
    pub(super) ends_group: bool,
    pub(super) hash: Hash,
    pub(super) line: &'a [u8],
    /// Offset of the byte after the frame.
    pub(super) end: usize,
}

impl Frame<'_> {
    /// The first record of the group this frame belongs to; `None` if that cannot be.
    pub(super) fn group(&self) -> Option<u64> {
        self.seq.checked_sub(u64::from(self.index)).filter(|first| *first > 0)
    }
}

/// What stands at one offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look<'a> {
    /// No frame was ever written here: zeros, or the end of the bytes.
    Empty,
    /// A sound frame.
    Frame(Frame<'a>),
    /// A frame that goes on past the end of the bytes at hand; the count is the bytes it needs.
    Cut(usize),
    /// Neither.
    Bad(&'static str),
}

/// Appends one frame to `out`.
pub(super) fn encode(out: &mut Vec<u8>, seq: u64, index: u32, last: bool, hash: Hash, line: &[u8]) {
    let start = out.len();
    // INVARIANT: the chain check before this refused lines longer than `LINE_BYTES_MAX`.
    out.extend_from_slice(&(line.len() as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&seq.to_le_bytes());
    out.extend_from_slice(&index.to_le_bytes());
    out.extend_from_slice(&[if last { KIND_LAST_OF_GROUP } else { KIND_ENTRY }, 0, 0, 0]);
    out.extend_from_slice(hash.as_bytes());
    out.extend_from_slice(line);
    out.resize(start + frame_bytes(line.len()), 0);
    seal(out, start);
}

/// Makes the frame that begins at `start`, the last one in `out`, the last one of its group.
pub(super) fn end_group(out: &mut [u8], start: usize) {
    if let Some(kind) = out.get_mut(start + 20) {
        *kind = KIND_LAST_OF_GROUP;
    }
    seal(out, start);
}

/// Puts the checksum into the frame that goes from `start` to the end.
fn seal(out: &mut [u8], start: usize) {
    let Some(frame) = out.get_mut(start..) else { return };
    let Some((length, rest)) = frame.split_at_mut_checked(4) else { return };
    let Some((place, body)) = rest.split_at_mut_checked(4) else { return };
    let crc = crc32c::crc32c_append(crc32c::crc32c(length), body);
    place.copy_from_slice(&crc.to_le_bytes());
}

/// Reads what stands at `at`.
pub(super) fn look(bytes: &[u8], at: usize) -> Look<'_> {
    let rest = bytes.get(at..).unwrap_or_default();
    let Some(head) = rest.get(..FRAME_HEAD_BYTES) else {
        return if rest.iter().all(|b| *b == 0) {
            Look::Empty
        } else {
            Look::Cut(FRAME_HEAD_BYTES)
        };
    };
    if head.iter().all(|b| *b == 0) {
        return Look::Empty;
    }
    parse(rest, at).unwrap_or(Look::Bad("not a frame"))
}

fn parse(rest: &[u8], at: usize) -> Option<Look<'_>> {
    let length = u32_at(rest, 0)? as usize;
    if length == 0 || length > LINE_BYTES_MAX {
        return Some(Look::Bad("the length of a frame is out of range"));
    }
    let total = frame_bytes(length);
    let Some(body) = rest.get(8..total) else { return Some(Look::Cut(total)) };
    let crc = crc32c::crc32c_append(crc32c::crc32c(rest.get(..4)?), body);
    if crc != u32_at(rest, 4)? {
        return Some(Look::Bad("the checksum of a frame does not match"));
    }
    let kind = *rest.get(20)?;
    if !matches!(kind, KIND_ENTRY | KIND_LAST_OF_GROUP) {
        return Some(Look::Bad("a frame of an unknown kind"));
    }
    Some(Look::Frame(Frame {
        seq: u64_at(rest, 8)?,
        index: u32_at(rest, 16)?,
        ends_group: kind == KIND_LAST_OF_GROUP,
        hash: Hash::from_bytes(array(rest, 24)?),
        line: rest.get(FRAME_HEAD_BYTES..FRAME_HEAD_BYTES + length)?,
        end: at + total,
    }))
}

/// Puts the checksum behind `bytes`, and zeros up to `length`.
pub(super) fn close(mut bytes: Vec<u8>, length: usize) -> Vec<u8> {
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.resize(length, 0);
    bytes
}

/// Whether the checksum at `at` is the one of all bytes before it.
pub(super) fn is_closed(bytes: &[u8], at: usize) -> bool {
    bytes.get(..at).is_some_and(|before| u32_at(bytes, at) == Some(crc32c::crc32c(before)))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

pub(super) fn hash_at(bytes: &[u8], at: usize) -> Option<Hash> {
    array(bytes, at).map(Hash::from_bytes)
}

#[cfg(test)]
mod tests {
    use agentd_core::chain::leaf_hash;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_flipped_bit_of_a_frame_is_noticed() {
        let line = br#"{"seq":7}"#;
        let mut bytes = Vec::new();
        encode(&mut bytes, 7, 2, true, leaf_hash(line), line);
        assert_eq!(bytes.len() % 8, 0);
        let Look::Frame(frame) = look(&bytes, 0) else { panic!("{:?}", look(&bytes, 0)) };
        assert_eq!((frame.seq, frame.group(), frame.ends_group), (7, Some(5), true));
        assert_eq!((frame.line, frame.end), (line.as_slice(), bytes.len()));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(look(&flipped, 0), Look::Frame(_)), "bit {bit}");
        }
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let header = Header { log_id: LogId::random(), first_seq: 12, prev: leaf_hash(b"x") };
        let bytes = header.encode();
        assert_eq!(bytes.len(), HEADER_BYTES);
        assert_eq!(Header::decode(&bytes), Ok(header));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&flipped).is_err(), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(Header::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_header_of_the_future_is_told_from_a_damaged_one() {
        let header = Header { log_id: LogId::random(), first_seq: 1, prev: leaf_hash(b"x") };
        let mut bytes = header.encode();
        bytes[8] = 9;
        let crc = crc32c::crc32c(&bytes[..72]);
        bytes[72..76].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Header::decode(&bytes), Err(BadHeader::Version(9)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..400) {
            let _ = look(&bytes, at);
            let _ = Header::decode(&bytes);
        }
    }
}
