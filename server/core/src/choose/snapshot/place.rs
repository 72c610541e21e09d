//! Where something stands in a JSON text: serde knows the line of what it cannot read, but not the field; a check knows the field, but
//! not the line. The text is known to be JSON, or to be JSON up to the place that is asked about.

/// A key of an object, where it stands.
struct Place {
    line: usize,
    column: usize,
    path: String,
}

/// Every key of a text, in its order.
pub(super) struct Places(Vec<Place>);

/// An object or an array that is not closed yet.
enum Frame {
    Object { key: String, awaits_key: bool },
    Array { index: usize },
}

impl Places {
    pub(super) fn of(text: &str) -> Self {
        let (mut found, mut frames) = (Vec::new(), Vec::new());
        let (mut line, mut column) = (1, 0);
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            column += 1;
            match byte {
                b'\n' => (line, column) = (line + 1, 0),
                b'{' => frames.push(Frame::Object { key: String::new(), awaits_key: true }),
                b'[' => frames.push(Frame::Array { index: 0 }),
                b'}' | b']' => _ = frames.pop(),
                b',' => match frames.last_mut() {
                    Some(Frame::Object { awaits_key, .. }) => *awaits_key = true,
                    Some(Frame::Array { index }) => *index += 1,
                    None => {}
                },
                b'"' => {
                    let (read, width) = string(&mut bytes);
                    if let Some(Frame::Object { key, awaits_key }) = frames.last_mut()
                        && std::mem::take(awaits_key)
                    {
                        *key = read;
                        found.push(Place { line, column, path: path(&frames) });
                    }
                    column += width;
                }
                _ => {}
            }
        }
        Self(found)
    }

    /// The line of a field; 0 when it is not there.
    pub(super) fn line_of(&self, field: &str) -> usize {
        self.0.iter().find(|place| place.path == field).map_or(0, |place| place.line)
    }

    /// The last field that begins before that place.
    pub(super) fn field_at(&self, line: usize, column: usize) -> &str {
        let before = |place: &&Place| (place.line, place.column) <= (line, column);
        self.0.iter().take_while(before).last().map_or("", |place| &place.path)
    }
}

/// The rest of a string, and how many bytes it took.
fn string(bytes: &mut impl Iterator<Item = u8>) -> (String, usize) {
    let (mut read, mut width) = (Vec::new(), 0);
    while let Some(byte) = bytes.next() {
        width += 1;
        match byte {
            b'"' => break,
            b'\\' => {
                width += usize::from(bytes.next().is_some());
            }
            byte => read.push(byte),
        }
    }
    (String::from_utf8_lossy(&read).into_owned(), width)
}

fn path(frames: &[Frame]) -> String {
    let parts: Vec<String> = frames
        .iter()
        .map(|frame| match frame {
            Frame::Object { key, .. } => key.clone(),
            Frame::Array { index } => index.to_string(),
        })
        .collect();
    parts.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "{\n  \"a\": 1,\n  \"b\": {\n    \"c\": [ {\"d\": \"x, \\\" {\"}, {\"d\": 2} ]\n  }\n}";

    #[test]
    fn a_field_has_a_line_and_a_place_has_a_field() {
        let places = Places::of(TEXT);
        let lines = ["a", "b", "b.c", "b.c.1.d", "d"].map(|field| places.line_of(field));
        assert_eq!(lines, [2, 3, 4, 4, 0]);
        assert_eq!(places.field_at(2, 8), "a");
        assert_eq!(places.field_at(4, 18), "b.c.0.d");
        assert_eq!(places.field_at(4, 36), "b.c.1.d");
        assert_eq!(places.field_at(1, 1), "");
        assert_eq!(Places::of("{\"half").field_at(1, 9), "half");
    }
}
