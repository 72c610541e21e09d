//! Foreign text on its way to a terminal: one sanitizer, and widths as a terminal counts them.

use unicode_width::UnicodeWidthStr as _;

pub use agentctl_api::text::{block, cut, line};

/// Columns `text` takes on a terminal.
#[must_use]
pub fn width(text: &str) -> usize {
    text.width()
}

/// `text` filled up with spaces to `columns`; longer text stays as it is.
#[must_use]
pub fn pad(text: &str, columns: usize) -> String {
    let mut padded = text.to_owned();
    for _ in width(text)..columns {
        padded.push(' ');
    }
    padded
}

/// At most `columns` of `text`, with `…` where something was cut off.
#[must_use]
pub fn fit(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut used = 1;
    for c in text.chars() {
        let next = width(c.encode_utf8(&mut [0; 4]));
        if used + next > columns {
            break;
        }
        used += next;
        kept.push(c);
    }
    kept.push('…');
    kept
}

/// The first eight hex digits of a digest such as `sha256:4be1…`.
#[must_use]
pub fn short_digest(digest: &str) -> String {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    line(&hex.chars().take(8).collect::<String>()).into_owned()
}

/// `1 entry`, `2 entries`, with thousands separated.
#[must_use]
pub fn count(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", thousands(n), if n == 1 { one } else { many })
}

/// `1234567` as `1,234,567`.
#[must_use]
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Millionths as a number with three digits behind the point.
#[must_use]
pub fn milli(micro: i64) -> String {
    let milli = micro.unsigned_abs().saturating_add(500) / 1_000;
    let sign = if micro < 0 && milli > 0 { "-" } else { "" };
    format!("{sign}{}.{:03}", milli / 1_000, milli % 1_000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a terminal would act on, decided here without looking at the sanitizer.
    fn moves_a_terminal(c: char) -> bool {
        let code = u32::from(c);
        code < 0x20
            || (0x7f..=0x9f).contains(&code)
            || (0x200b..=0x200f).contains(&code)
            || (0x2028..=0x202e).contains(&code)
            || (0x2066..=0x2069).contains(&code)
            || code == 0x061c
            || code == 0xfeff
    }

    proptest! {
        #[test]
        fn no_foreign_text_ever_moves_the_terminal(text in any::<String>()) {
            prop_assert!(!line(&text).chars().any(moves_a_terminal));
            prop_assert!(!block(&text).chars().any(|c| moves_a_terminal(c) && c != '\n' && c != '\t'));
        }

        #[test]
        fn hostile_characters_among_plain_ones_are_shown_not_obeyed(
            parts in proptest::collection::vec(
                prop_oneof![
                    Just("\x1b[2J"), Just("\x1b]0;title\x07"), Just("\r"), Just("\u{202e}"), Just("\u{9b}31m"),
                    Just("\u{2066}"), Just("\n"), Just("plain"), Just("héllo"), Just("日本"),
                ],
                0..12,
            )
        ) {
            let text = parts.concat();
            let shown = line(&text);
            prop_assert!(!shown.chars().any(moves_a_terminal));
            let again = line(&shown);
            prop_assert_eq!(again, shown.clone(), "sanitizing twice changes nothing");
        }

        #[test]
        fn a_fitted_text_never_exceeds_its_columns(text in "[ -~é日本]{0,40}", columns in 1_usize..30) {
            prop_assert!(width(&fit(&text, columns)) <= columns);
            prop_assert!(width(&pad(&fit(&text, columns), columns)) == columns);
        }
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_093), "1,093");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(count(1, "entry", "entries"), "1 entry");
        assert_eq!(count(41, "entry", "entries"), "41 entries");
    }

    #[test]
    fn digests_are_short() {
        assert_eq!(short_digest("sha256:4be1aabbccdd"), "4be1aabb");
        assert_eq!(short_digest(""), "");
    }
}
