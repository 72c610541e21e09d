//! Protobuf that is read where it lies.
//!
//! Only what is written plainly is read here: every answer is `None` for bytes that end too early, and whoever reads gives up at
//! whatever it does not expect (an unknown field, a group, a text that is none) and leaves all of it to the generated code. So there is
//! one judge of what is malformed, and what is read here needs no depth.

/// How a field is written: the low three bits of its tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A number of one to ten bytes.
    Varint = 0,
    /// Eight bytes.
    Fixed64 = 1,
    /// A length and so many bytes.
    Bytes = 2,
}

/// What stands before field `number` in its usual form.
pub(super) const fn tag(number: u64, form: Form) -> u64 {
    number << 3 | form as u64
}

/// The fields of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next tag; `Some(None)` at the end.
    #[inline]
    pub(super) fn tag(&mut self) -> Option<Option<u64>> {
        if self.0.is_empty() { Some(None) } else { self.varint().map(Some) }
    }

    /// A number.
    #[inline]
    pub(super) fn varint(&mut self) -> Option<u64> {
        let (first, rest) = self.0.split_first()?;
        if *first < 0x80 {
            self.0 = rest;
            return Some(u64::from(*first));
        }
        self.long_varint()
    }

    /// A number of more than one byte.
    fn long_varint(&mut self) -> Option<u64> {
        let (first, rest) = self.0.split_first()?;
        let (mut value, mut rest) = (u64::from(*first & 0x7f), rest);
        for shift in (7..63).step_by(7) {
            let (byte, more) = rest.split_first()?;
            (value, rest) = (value | u64::from(*byte & 0x7f) << shift, more);
            if *byte < 0x80 {
                self.0 = rest;
                return Some(value);
            }
        }
        // The tenth byte has room for one bit.
        let (byte, more) = rest.split_first()?;
        self.0 = more;
        (*byte < 2).then_some(value | u64::from(*byte) << 63)
    }

    /// The bytes of a message or a text.
    #[inline]
    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    /// A text.
    #[inline]
    pub(super) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// Eight bytes as a number.
    #[inline]
    pub(super) fn fixed64(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*bytes))
    }

    /// Eight bytes as a number with a fraction.
    #[inline]
    pub(super) fn double(&mut self) -> Option<f64> {
        self.fixed64().map(f64::from_bits)
    }
}

/// What is in a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field<'a> {
    /// A number of one to ten bytes.
    Number(u64),
    /// Eight bytes as a number.
    Fixed(u64),
    /// A message, a text or anything else with a length.
    Bytes(&'a [u8]),
}

/// The fields of a message that is known to be well-formed, by their numbers; four bytes as a number, which nothing here has, are its
/// end.
pub(super) fn fields(message: &[u8]) -> impl Iterator<Item = (u64, Field<'_>)> + Clone {
    let mut reader = Reader::new(message);
    std::iter::from_fn(move || {
        let tag = reader.tag()??;
        let field = match tag & 7 {
            0 => Field::Number(reader.varint()?),
            1 => Field::Fixed(reader.fixed64()?),
            2 => Field::Bytes(reader.bytes()?),
            _ => return None,
        };
        Some((tag >> 3, field))
    })
}

/// The messages in field `wanted` of a message that is known to be well-formed.
pub(super) fn messages(message: &[u8], wanted: u64) -> impl Iterator<Item = &[u8]> + Clone {
    fields(message).filter_map(move |(number, field)| match field {
        Field::Bytes(bytes) if number == wanted => Some(bytes),
        _ => None,
    })
}

/// Fields that may come once: of two, generated code takes the last one or puts them together.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Once(u64);

impl Once {
    /// Notes a field by its tag; `None` if it was there before, or its number is none that is expected.
    #[inline]
    pub(super) fn note(&mut self, tag: u64) -> Option<()> {
        let bit = 1_u64.checked_shl(u32::try_from(tag >> 3).ok()?)?;
        let first = self.0 & bit == 0;
        self.0 |= bit;
        first.then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_generated_code_reads_them_and_never_beyond_the_end() {
        for value in [0, 1, 127, 128, 300, 1 << 35, u64::MAX >> 1, u64::MAX] {
            let mut bytes = Vec::new();
            prost::encoding::encode_varint(value, &mut bytes);
            let mut reader = Reader::new(&bytes);
            assert_eq!((reader.varint(), reader.tag()), (Some(value), Some(None)));
            for cut in 0..bytes.len() {
                assert_eq!(Reader::new(&bytes[..cut]).varint(), None, "{value} cut at {cut}");
            }
        }
        let too_long = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert_eq!(Reader::new(&too_long).varint(), None);
        assert_eq!(Reader::new(&[5, b'a']).bytes(), None, "fewer bytes than it says");
        assert_eq!(Reader::new(&[1, 0xff]).text(), None, "no text");
        assert_eq!(Reader::new(&[0; 7]).fixed64(), None);
    }

    #[test]
    fn a_field_may_come_once() {
        let mut once = Once::default();
        let time = tag(3, Form::Bytes);
        assert_eq!(
            (once.note(time), once.note(tag(4, Form::Varint)), once.note(time)),
            (Some(()), Some(()), None)
        );
        assert_eq!(once.note(tag(64, Form::Varint)), None, "a number nobody expects");
    }
}
