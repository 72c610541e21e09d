//! Pages of lists: their limits, and tokens that are checked before they are believed.

use prost::Message;

use super::opaque::Page;
use super::status::Violation;

/// A page ends with the item that takes it past so many bytes, so that any client can receive it.
pub(super) const PAGE_BYTES: usize = 2 << 20;
/// Records looked at for one page; with a filter that rarely matches a page ends short and says where to go on.
pub(super) const SCAN_RECORDS: usize = 20_000;
/// Most values of one field of a filter.
const FILTER_VALUES: usize = 100;

/// What a list is asked for: its method, the log or table it lists, and its filter. A token of one question is not taken for
/// another.
#[derive(Debug, Clone)]
pub(super) struct Question {
    parts: [Vec<u8>; 3],
}

impl Question {
    pub(super) fn new(method: &str, of: &[u8], filter: &impl Message) -> Self {
        Self { parts: [method.as_bytes().to_vec(), of.to_vec(), filter.encode_to_vec()] }
    }

    fn parts(&self) -> [&[u8]; 3] {
        let [method, of, filter] = &self.parts;
        [method, of, filter]
    }

    /// The position in `token`; `None` for the first page.
    pub(super) fn position(&self, token: &str, violations: &mut Vec<Violation>) -> Option<u64> {
        if token.is_empty() {
            return None;
        }
        let page = Page::parse(token);
        let rule = match page {
            Some(page) if page.is_of(&self.parts()) => return Some(page.at),
            Some(_) => "must come from an answer to the same request",
            None => "must be a `next_page_token` as it was given out",
        };
        violations.push(Violation::new("page_token", token, rule));
        None
    }

    /// The token of the page at `at`.
    pub(super) fn token(&self, at: u64) -> String {
        Page::new(&self.parts(), at).to_string()
    }
}

/// At most [`FILTER_VALUES`] values in `field`.
pub(super) fn check_count(field: &str, count: usize, violations: &mut Vec<Violation>) {
    if count > FILTER_VALUES {
        let rule = format!("must have at most {FILTER_VALUES} values");
        violations.push(Violation::new(field, count.to_string(), rule));
    }
}

#[cfg(test)]
mod tests {
    use agentctl_api::v1;

    use super::*;

    #[test]
    fn a_token_goes_on_with_its_own_question_and_no_other() {
        let filter = v1::DecisionFilter { apps: vec!["web".into()], ..Default::default() };
        let question = Question::new("ListDecisions", b"log", &filter);
        let token = question.token(17);
        let mut violations = Vec::new();
        assert_eq!(question.position(&token, &mut violations), Some(17));
        assert_eq!(question.position("", &mut violations), None);
        assert!(violations.is_empty());
        let other = Question::new("ListDecisions", b"log", &v1::DecisionFilter::default());
        assert_eq!(other.position(&token, &mut violations), None);
        assert_eq!(other.position("abc", &mut violations), None);
        let rules: Vec<_> = violations.iter().map(|v| v.rule.as_str()).collect();
        assert!(rules[0].contains("same request") && rules[1].contains("given out"), "{rules:?}");
    }
}
