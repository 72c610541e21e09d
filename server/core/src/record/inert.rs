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

#[cfg(test)]
mod tests {
    use crate::app::Env;
    use crate::record::{Body, Record};

    use super::is_obeyed;

    #[test]
    fn a_line_holds_nothing_that_a_terminal_obeys_and_reads_back_as_it_was() {
        let what = "a\u{1b}[2J\u{7f}\u{9b}31m\u{202e}\u{2066}b ä €".to_owned();
        let body = Body::Injected { scenario: "x".to_owned(), what };
        let (seq, at, env, app) = (7, 1_795_448_641_483, Env::Stage, None);
        let actor = "t".to_owned();
        let record = Record { seq, at, env, app, cause: None, actor, trace: None, body };
        let line = record.line(crate::chain::GENESIS);
        let text = std::str::from_utf8(&line).unwrap();
        assert!(!text.contains(|c: char| c.is_control() || is_obeyed(c)), "{text}");
        assert!(text.contains("ä €"));
        assert_eq!(Record::parse(&line).unwrap(), record);
    }
}
