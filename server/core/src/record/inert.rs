//! Lines that can be shown as they are.

/// Escapes what a terminal would obey and JSON leaves as it is (DEL, C1 controls, bidirectional marks), so that the log can be shown
/// as it is. Such characters occur only inside strings, so the document stays the same.
pub(super) fn inert(line: Vec<u8>) -> Vec<u8> {
    let text = match String::from_utf8(line) {
        Ok(text) if text.contains(is_obeyed) => text,
        Ok(text) => return text.into_bytes(),
        Err(error) => return error.into_bytes(),
    };
    let mut escaped = String::with_capacity(text.len().saturating_add(32));
    for character in text.chars() {
        if is_obeyed(character) {
            use std::fmt::Write as _;
            // Writing to a String cannot fail.
            let _ = write!(escaped, "\\u{:04x}", u32::from(character));
        } else {
            escaped.push(character);
        }
    }
    escaped.into_bytes()
}

pub(super) const fn is_obeyed(character: char) -> bool {
    matches!(
        character,
        '\u{7f}'..='\u{9f}'
            | '\u{61c}'
            | '\u{200e}' | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            | '\u{feff}'
    )
}
