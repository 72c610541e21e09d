//! `--jq`: a jq program between the answer and stdout, so that a script needs no other program.

use jaq_core::load::{Arena, File, Loader};
use jaq_core::{Compiler, Ctx, Vars, data, unwrap_valr};
use jaq_json::Val;
use serde::Serialize;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::text;

/// Longest program that is taken.
const PROGRAM_MAX: usize = 64 * 1024;

/// A compiled program.
pub struct Filter {
    program: jaq_core::compile::Filter<jaq_core::Native<data::JustLut<Val>>>,
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filter").finish_non_exhaustive()
    }
}

impl Filter {
    /// Compiles a program.
    ///
    /// # Errors
    /// It is no jq program, or names what there is not: [`Exit::Usage`].
    pub fn compile(code: &str) -> Result<Self, Failure> {
        let wrong = |why: String| {
            Failure::new(
                Exit::Usage,
                format!("--jq `{}` is no jq program: {why}", text::line(code)),
            )
            .hint("such as --jq '.[].name'")
        };
        if code.len() > PROGRAM_MAX {
            return Err(wrong(format!("longer than {PROGRAM_MAX} bytes")));
        }
        let definitions = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
        let functions = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
        let arena = Arena::default();
        let modules = Loader::new(definitions)
            .load(&arena, File { code, path: () })
            .map_err(|errors| wrong(first_of(&errors)))?;
        let program =
            Compiler::default().with_funs(functions).compile(modules).map_err(|errors| {
                let names = errors.iter().flat_map(|(_, errors)| errors).map(|(name, _)| *name);
                wrong(format!("`{}` is not defined", names.collect::<Vec<_>>().join("`, `")))
            })?;
        Ok(Self { program })
    }

    /// What the program makes of a value, a line each: text without quotes, everything else as JSON.
    ///
    /// # Errors
    /// The program fails on this value.
    pub(super) fn apply<T: Serialize>(&self, value: &T) -> Result<String, Failure> {
        let json = serde_json::to_vec(value).map_err(|error| Failure::unprintable(&error))?;
        let input =
            jaq_json::read::parse_single(&json).map_err(|error| Failure::unprintable(&error))?;
        let context = Ctx::<data::JustLut<Val>>::new(&self.program.lut, Vars::new([]));
        let mut lines = String::new();
        for output in self.program.id.run((context, input)).map(unwrap_valr) {
            let output = output.map_err(|error| {
                Failure::new(
                    Exit::Failure,
                    format!("--jq failed: {}", text::line(&error.to_string())),
                )
            })?;
            let line = match &output {
                Val::TStr(bytes) | Val::BStr(bytes) => {
                    text::block(&String::from_utf8_lossy(bytes)).into_owned()
                }
                other => super::escape_json(&other.to_string()),
            };
            lines.push_str(&line);
            lines.push('\n');
        }
        Ok(lines)
    }
}

/// What the first error of loading is about, in a few words.
fn first_of<P>(errors: &jaq_core::load::Errors<&str, P>) -> String {
    use jaq_core::load::Error;
    let at = |rest: &str| {
        if rest.is_empty() {
            "it ends too early".to_owned()
        } else {
            format!("unexpected `{}`", text::cut(&text::line(rest), 40))
        }
    };
    match errors.first().map(|(_, error)| error) {
        Some(Error::Lex(errors)) => errors.first().map_or_else(String::new, |(_, rest)| at(rest)),
        Some(Error::Parse(errors)) => errors.first().map_or_else(String::new, |(_, rest)| at(rest)),
        Some(Error::Io(_)) | None => "it loads something".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ran(code: &str, value: &serde_json::Value) -> String {
        Filter::compile(code).unwrap().apply(value).unwrap()
    }

    #[test]
    fn a_program_picks_what_a_script_needs() {
        let apps = json!([{"name": "a", "ready": 1}, {"name": "b", "ready": 0}]);
        assert_eq!(ran(".[].name", &apps), "a\nb\n");
        assert_eq!(ran("map(select(.ready == 0) | .name)", &apps), "[\"b\"]\n");
        assert_eq!(ran("length", &apps), "2\n");
        assert_eq!(ran("empty", &apps), "");
    }

    #[test]
    fn what_it_prints_is_as_harmless_as_everything_else() {
        let foreign = json!({"name": "a\u{1b}[31m\u{202e}"});
        for code in [".name", "."] {
            let out = ran(code, &foreign);
            assert!(!out.contains(['\u{1b}', '\u{202e}']), "{out}");
        }
    }

    #[test]
    fn a_wrong_program_is_a_usage_error_that_says_where() {
        for (code, says) in [
            (".[", "--jq `.[` is no jq program"),
            (".a | nonsense", "`nonsense` is not defined"),
            ("", "is no jq program"),
        ] {
            match Filter::compile(code) {
                Err(failure) => {
                    assert_eq!(failure.exit(), Exit::Usage);
                    assert!(failure.to_string().contains(says), "{failure}");
                }
                // jq takes an empty program for `.`; so may this one.
                Ok(_) => assert_eq!(code, ""),
            }
        }
        let failure = Filter::compile(".a.b").unwrap().apply(&json!({"a": 1})).unwrap_err();
        assert_eq!(failure.exit(), Exit::Failure);
    }
}
