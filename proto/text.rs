//! The one sanitizer between text from outside and a terminal, a log line or a status message.

use std::borrow::Cow;
use std::fmt::Write as _;

/// `text` on one line: everything that could move a cursor, change a colour, end the line or reorder what a reader sees is
/// written as an escape such as `\n` or `\u{202e}`.
///
/// ```
/// assert_eq!(agentctl_api::text::line("ok\x1b[2Jgone\n"), "ok\\u{1b}[2Jgone\\n");
/// ```
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    escape(text, |c| is_hostile(c) || matches!(c, '\n' | '\t'))
}

/// Like [`line()`], but line ends and tabs stay: for blocks of text.
#[must_use]
pub fn block(text: &str) -> Cow<'_, str> {
    escape(text, is_hostile)
}

/// `document`, which is JSON, with hostile characters as JSON escapes: they can only be inside of strings, so that it means the
/// same as before. Line ends and tabs stay.
///
/// ```
/// assert_eq!(agentctl_api::text::json("[\"\u{202e}\u{e0041}\"]"), r#"["\u202e\udb40\udc41"]"#);
/// ```
#[must_use]
pub fn json(document: &str) -> Cow<'_, str> {
    if !document.contains(is_hostile) {
        return Cow::Borrowed(document);
    }
    let mut out = String::with_capacity(document.len() + 16);
    for c in document.chars() {
        if is_hostile(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// At most `limit` bytes of `text`, cut between characters, with `…` where something was cut off.
#[must_use]
pub fn cut(text: &str, limit: usize) -> Cow<'_, str> {
    if text.len() <= limit {
        return Cow::Borrowed(text);
    }
    let mut kept = String::with_capacity(limit);
    for c in text.chars() {
        if kept.len() + c.len_utf8() + '…'.len_utf8() > limit {
            break;
        }
        kept.push(c);
    }
    kept.push('…');
    Cow::Owned(kept)
}

fn escape(text: &str, hostile: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&hostile) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            _ if !hostile(c) => out.push(c),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
        }
    }
    Cow::Owned(out)
}

/// C0 and C1 controls but line end and tab, and characters without a width of their own that reorder, join or hide others.
fn is_hostile(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\t'))
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_a_cursor_or_reorders_text_gets_through() {
        for code in 0..=0x10_ffff_u32 {
            let Some(c) = char::from_u32(code) else { continue };
            let out = line(&c.to_string()).into_owned();
            assert!(
                out.chars().all(|c| c >= ' ' && !('\u{7f}'..='\u{9f}').contains(&c)),
                "{code:x}"
            );
            assert!(!out.chars().any(is_hostile), "{code:x}");
        }
        assert_eq!(line("a\u{202e}b\u{9b}31m"), "a\\u{202e}b\\u{9b}31m");
        assert_eq!(line("évident, 日本"), "évident, 日本");
    }

    #[test]
    fn a_block_keeps_its_lines() {
        assert_eq!(block("one\n\ttwo\r\n\x07"), "one\n\ttwo\\r\n\\u{7}");
    }

    #[test]
    fn a_cut_never_splits_a_character_and_shows_itself() {
        assert_eq!(cut("short", 5), "short");
        assert_eq!(cut("éééé", 7), "éé…");
        assert!(cut(&"é".repeat(100), 64).len() <= 64);
    }
}
