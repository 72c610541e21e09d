//! Whether an export is written plainly: every field one that is known, in the form it is known in, and none twice that may come once.
//!
//! What is plain can be read where it lies, piece by piece, and no piece of it turns out to be malformed after others were taken. What
//! is not goes through the generated code, which refuses it or writes it plainly.

use crate::grpc::reader::{Form, Reader};

/// What a field holds.
#[derive(Debug, Clone, Copy)]
enum Holds {
    Number,
    Fixed64,
    Text,
    Bytes,
    /// Numbers of eight bytes in a row.
    Row,
    /// Numbers of one to ten bytes in a row.
    Numbers,
    Message(&'static Shape),
}

/// A field: its number, what it holds, and the bit that is set when it was seen; fields of which only one may come share a bit, and
/// those of which there may be many have none.
type Field = (u64, Holds, u32);

/// The fields of a message, each at the place of its number.
#[derive(Debug)]
struct Shape([Option<(Holds, u32)>; FIELDS]);

/// Numbers that fields have, 0 among them.
const FIELDS: usize = 15;

impl Shape {
    #[expect(clippy::indexing_slicing, reason = "what is out of bounds does not compile")]
    const fn new(fields: &[Field]) -> Self {
        let (mut places, mut at) = ([None; FIELDS], 0);
        while at < fields.len() {
            let (number, holds, bit) = fields[at];
            places[number as usize] = Some((holds, bit));
            at += 1;
        }
        Self(places)
    }
}

use Holds::{Bytes, Fixed64, Message, Number, Numbers, Row, Text};

/// Messages in messages; far more than any export has.
const DEPTH: usize = 16;

static REQUEST: Shape = Shape::new(&[(1, Message(&RESOURCE_METRICS), 0)]);
static RESOURCE_METRICS: Shape =
    Shape::new(&[(1, Message(&RESOURCE), 1), (2, Message(&SCOPE_METRICS), 0), (3, Text, 2)]);
static RESOURCE: Shape = Shape::new(&[(1, Message(&KEY_VALUE), 0), (2, Number, 1)]);
static SCOPE_METRICS: Shape =
    Shape::new(&[(1, Message(&SCOPE), 1), (2, Message(&METRIC), 0), (3, Text, 2)]);
static SCOPE: Shape =
    Shape::new(&[(1, Text, 1), (2, Text, 2), (3, Message(&KEY_VALUE), 0), (4, Number, 4)]);
static METRIC: Shape = Shape::new(&[
    (1, Text, 1),
    (2, Text, 2),
    (3, Text, 4),
    (5, Message(&GAUGE), 8),
    (7, Message(&SUM), 8),
    (9, Message(&HISTOGRAM), 8),
    (10, Message(&EXPONENTIAL), 8),
    (11, Message(&SUMMARY), 8),
    (12, Message(&KEY_VALUE), 0),
]);
static GAUGE: Shape = Shape::new(&[(1, Message(&NUMBER), 0)]);
static SUM: Shape = Shape::new(&[(1, Message(&NUMBER), 0), (2, Number, 1), (3, Number, 2)]);
static HISTOGRAM: Shape = Shape::new(&[(1, Message(&HISTOGRAM_POINT), 0), (2, Number, 1)]);
static EXPONENTIAL: Shape = Shape::new(&[(1, Message(&EXPONENTIAL_POINT), 0), (2, Number, 1)]);
static SUMMARY: Shape = Shape::new(&[(1, Message(&SUMMARY_POINT), 0)]);
static NUMBER: Shape = Shape::new(&[
    (2, Fixed64, 1),
    (3, Fixed64, 2),
    (4, Fixed64, 4),
    (5, Message(&EXEMPLAR), 0),
    (6, Fixed64, 4),
    (7, Message(&KEY_VALUE), 0),
    (8, Number, 8),
]);
static HISTOGRAM_POINT: Shape = Shape::new(&[
    (2, Fixed64, 1),
    (3, Fixed64, 2),
    (4, Fixed64, 4),
    (5, Fixed64, 8),
    (6, Row, 16),
    (7, Row, 32),
    (8, Message(&EXEMPLAR), 0),
    (9, Message(&KEY_VALUE), 0),
    (10, Number, 64),
    (11, Fixed64, 128),
    (12, Fixed64, 256),
]);
static EXPONENTIAL_POINT: Shape = Shape::new(&[
    (1, Message(&KEY_VALUE), 0),
    (2, Fixed64, 1),
    (3, Fixed64, 2),
    (4, Fixed64, 4),
    (5, Fixed64, 8),
    (6, Number, 16),
    (7, Fixed64, 32),
    (8, Message(&BUCKETS), 64),
    (9, Message(&BUCKETS), 128),
    (10, Number, 256),
    (11, Message(&EXEMPLAR), 0),
    (12, Fixed64, 512),
    (13, Fixed64, 1024),
    (14, Fixed64, 2048),
]);
static BUCKETS: Shape = Shape::new(&[(1, Number, 1), (2, Numbers, 2)]);
static SUMMARY_POINT: Shape = Shape::new(&[
    (2, Fixed64, 1),
    (3, Fixed64, 2),
    (4, Fixed64, 4),
    (5, Fixed64, 8),
    (6, Message(&QUANTILE), 0),
    (7, Message(&KEY_VALUE), 0),
    (8, Number, 16),
]);
static QUANTILE: Shape = Shape::new(&[(1, Fixed64, 1), (2, Fixed64, 2)]);
static EXEMPLAR: Shape = Shape::new(&[
    (2, Fixed64, 1),
    (3, Fixed64, 2),
    (4, Bytes, 4),
    (5, Bytes, 8),
    (6, Fixed64, 2),
    (7, Message(&KEY_VALUE), 0),
]);
static KEY_VALUE: Shape = Shape::new(&[(1, Text, 1), (2, Message(&ANY_VALUE), 2)]);
static ANY_VALUE: Shape = Shape::new(&[
    (1, Text, 1),
    (2, Number, 1),
    (3, Number, 1),
    (4, Fixed64, 1),
    (5, Message(&ARRAY), 1),
    (6, Message(&MAP), 1),
    (7, Bytes, 1),
]);
static ARRAY: Shape = Shape::new(&[(1, Message(&ANY_VALUE), 0)]);
static MAP: Shape = Shape::new(&[(1, Message(&KEY_VALUE), 0)]);

/// Whether a request is written plainly.
pub(super) fn is_plain(request: &[u8]) -> bool {
    check(request, &REQUEST, DEPTH).is_some()
}

fn check(bytes: &[u8], shape: &Shape, depth: usize) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    let (mut fields, mut seen) = (Reader::new(bytes), 0);
    while let Some(tag) = fields.tag()? {
        let (holds, bit) = shape.0.get(usize::try_from(tag >> 3).ok()?)?.as_ref()?;
        if seen & bit != 0 {
            return None;
        }
        seen |= bit;
        match (holds, tag & 7) {
            (Number, form) if form == Form::Varint as u64 => {
                fields.varint()?;
            }
            (Fixed64, form) if form == Form::Fixed64 as u64 => {
                fields.fixed64()?;
            }
            (Text, form) if form == Form::Bytes as u64 => {
                fields.text()?;
            }
            (Bytes, form) if form == Form::Bytes as u64 => {
                fields.bytes()?;
            }
            (Row, form) if form == Form::Bytes as u64 => {
                fields.bytes().filter(|row| row.len() % 8 == 0)?;
            }
            (Numbers, form) if form == Form::Bytes as u64 => {
                let mut row = Reader::new(fields.bytes()?);
                while row.tag()?.is_some() {}
            }
            (Message(inner), form) if form == Form::Bytes as u64 => {
                check(fields.bytes()?, inner, depth)?;
            }
            _ => return None,
        }
    }
    Some(())
}
