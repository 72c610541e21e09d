//! The only printer: data to stdout, everything else to stderr, in the format that was asked for.

use std::io::{self, IsTerminal as _, Write};

use anstream::{AutoStream, ColorChoice};
use serde::Serialize;

use crate::failure::Failure;
use crate::page::Page;
use crate::time::TimeStyle;

mod jq;
mod names;

pub use jq::Filter;

/// How data is written to stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people. Not a stable contract.
    #[default]
    Table,
    /// As `table`, but no cell is wrapped or cut to fit the terminal.
    Wide,
    /// One JSON document; streams write one document per line.
    Json,
    /// One JSON object per line, written out at once.
    Jsonl,
    /// YAML; streams write one document after the other.
    Yaml,
    /// Only names or ids, one per line: for `xargs`.
    Name,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` or `CLICOLOR=0` says otherwise.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl From<Color> for ColorChoice {
    fn from(color: Color) -> Self {
        match color {
            Color::Auto => Self::Auto,
            Color::Always => Self::Always,
            Color::Never => Self::Never,
        }
    }
}

/// What the global flags say about output.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings {
    /// Format of the data.
    pub format: Format,
    /// Colour.
    pub color: Color,
    /// Times in tables; `None`: what suits the table.
    pub time: Option<TimeStyle>,
    /// No notes.
    pub quiet: bool,
    /// More notes.
    pub verbose: bool,
}

/// The two streams of a command.
pub struct Output {
    settings: Settings,
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    paint_out: bool,
    paint_err: bool,
    columns: Option<u16>,
    filter: Option<Filter>,
    chosen: Vec<String>,
    /// Whether a table had the columns that were asked for.
    chose: bool,
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Output {
    /// The streams of this process.
    #[must_use]
    pub fn standard(settings: Settings) -> Self {
        let choice = |auto| match ColorChoice::from(settings.color) {
            ColorChoice::Auto => auto,
            set => set,
        };
        let out_choice = choice(AutoStream::choice(&io::stdout()));
        let err_choice = choice(AutoStream::choice(&io::stderr()));
        let columns =
            terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| width.0.max(60));
        Self {
            settings,
            out: Box::new(AutoStream::new(io::stdout(), out_choice)),
            err: Box::new(AutoStream::new(io::stderr(), err_choice)),
            paint_out: out_choice != ColorChoice::Never,
            paint_err: err_choice != ColorChoice::Never,
            columns: columns.filter(|_| settings.format != Format::Wide),
            filter: None,
            chosen: Vec::new(),
            chose: false,
        }
    }

    /// Other streams, without colour: for tests and for capturing.
    #[must_use]
    pub fn to(settings: Settings, out: Box<dyn Write + Send>, err: Box<dyn Write + Send>) -> Self {
        Self {
            settings,
            out,
            err,
            paint_out: false,
            paint_err: false,
            columns: None,
            filter: None,
            chosen: Vec::new(),
            chose: false,
        }
    }

    /// Sends every value through `filter` before it is written.
    #[must_use]
    pub fn filtered(mut self, filter: Option<Filter>) -> Self {
        self.filter = filter;
        self
    }

    /// Shows only these columns of tables.
    #[must_use]
    pub fn choosing(mut self, columns: Vec<String>) -> Self {
        self.chosen = columns;
        self
    }

    /// Columns that were asked for and that no table had; none if a table had them.
    #[must_use]
    pub fn unchosen(&self) -> &[String] {
        if self.chose { &[] } else { &self.chosen }
    }

    /// What the global flags say.
    #[must_use]
    pub const fn settings(&self) -> Settings {
        self.settings
    }

    /// Format of the data.
    #[must_use]
    pub const fn format(&self) -> Format {
        self.settings.format
    }

    /// True if people read stdout.
    #[must_use]
    pub const fn is_table(&self) -> bool {
        self.filter.is_none() && matches!(self.settings.format, Format::Table | Format::Wide)
    }

    /// True if this is the format and nothing stands between the data and stdout.
    #[must_use]
    pub fn is_plain(&self, format: Format) -> bool {
        self.filter.is_none() && self.settings.format == format
    }

    /// Width of the terminal; `None` if stdout is none.
    #[must_use]
    pub const fn columns(&self) -> Option<u16> {
        self.columns
    }

    /// True if stdout is a terminal that may be redrawn.
    #[must_use]
    pub const fn can_redraw(&self) -> bool {
        self.columns.is_some() && self.is_table()
    }

    /// Writes one value.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn emit<T: Serialize>(
        &mut self,
        value: &T,
        human: impl FnOnce(&mut Page),
    ) -> Result<(), Failure> {
        if self.filter.is_some() {
            return self.pass(value);
        }
        match self.settings.format {
            Format::Table | Format::Wide => self.page(human),
            Format::Json => self.document(&json_pretty(value)?),
            Format::Jsonl => self.document(&json_line(value)?),
            Format::Yaml => self.document(&yaml(value)?),
            Format::Name => self.document(&names::of(value)?),
        }
    }

    /// Writes what the filter makes of a value.
    fn pass<T: Serialize>(&mut self, value: &T) -> Result<(), Failure> {
        let Some(filter) = &self.filter else { return Ok(()) };
        let text = filter.apply(value)?;
        self.document(&text)
    }

    /// Writes a list: a table, a JSON array, one JSON line per item, or a YAML sequence.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn emit_list<T: Serialize>(
        &mut self,
        items: &[T],
        human: impl FnOnce(&mut Page),
    ) -> Result<(), Failure> {
        if self.settings.format != Format::Jsonl || self.filter.is_some() {
            return self.emit(&items, human);
        }
        let mut lines = String::new();
        for item in items {
            lines.push_str(&json_line(item)?);
        }
        self.document(&lines)
    }

    /// Writes one item of a stream and flushes it.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn emit_item<T: Serialize>(
        &mut self,
        item: &T,
        human: impl FnOnce(&mut Page),
    ) -> Result<(), Failure> {
        if self.filter.is_some() {
            return self.pass(item);
        }
        match self.settings.format {
            Format::Table | Format::Wide => self.page(human),
            Format::Json | Format::Jsonl => self.document(&json_line(item)?),
            Format::Yaml => self.document(&format!("---\n{}", yaml(item)?)),
            Format::Name => self.document(&names::of(item)?),
        }
    }

    /// Writes text for people to stdout; nothing in the other formats.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn page(&mut self, human: impl FnOnce(&mut Page)) -> Result<(), Failure> {
        if !self.is_table() {
            return Ok(());
        }
        let mut page = Page::choosing(&self.chosen);
        human(&mut page);
        self.chose |= page.chose()?;
        let text = page.render(self.paint_out);
        self.document(&text)
    }

    /// Like [`Output::page`], over what was there before.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn redraw(&mut self, human: impl FnOnce(&mut Page)) -> Result<(), Failure> {
        let mut page = Page::default();
        human(&mut page);
        // Home, the page with each line cleared behind its text, then clear below: no flicker.
        let text = page.render(self.paint_out).replace('\n', "\x1b[K\n");
        self.document(&format!("\x1b[H{text}\x1b[J"))
    }

    /// Writes bytes as they are: for exports, whose bytes are what counts.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes)?;
        Ok(())
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush()?;
        Ok(())
    }

    /// Says something to people on stderr, unless they asked for quiet.
    pub fn note(&mut self, human: impl FnOnce(&mut Page)) {
        if !self.settings.quiet {
            self.tell(human);
        }
    }

    /// Says one line on stderr, unless people asked for quiet.
    pub fn say(&mut self, line: impl AsRef<str>) {
        self.note(|page| page.line(line));
    }

    /// Says one line on stderr if people asked for more.
    pub fn detail(&mut self, line: impl AsRef<str>) {
        if self.settings.verbose {
            self.tell(|page| page.line(line));
        }
    }

    /// Reports why the command failed: text for people, one JSON object for the other formats.
    pub fn failure(&mut self, failure: &Failure) {
        if failure.is_silent() {
            return;
        }
        if self.is_table() {
            self.tell(|page| failure.page(page));
        } else if let Ok(line) = json_line(&failure.view()) {
            self.tell_text(&line);
        }
    }

    fn tell(&mut self, human: impl FnOnce(&mut Page)) {
        let mut page = Page::default();
        human(&mut page);
        let text = page.render(self.paint_err);
        self.tell_text(&text);
    }

    /// A closed stderr must not hide the exit code.
    fn tell_text(&mut self, text: &str) {
        let _ = self.err.write_all(text.as_bytes()).and_then(|()| self.err.flush());
    }

    fn document(&mut self, text: &str) -> Result<(), Failure> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()?;
        Ok(())
    }
}

fn json_line<T: Serialize>(value: &T) -> Result<String, Failure> {
    let mut json = serde_json::to_string(value).map_err(|error| Failure::unprintable(&error))?;
    json.push('\n');
    Ok(escape_json(&json))
}

fn json_pretty<T: Serialize>(value: &T) -> Result<String, Failure> {
    let mut json =
        serde_json::to_string_pretty(value).map_err(|error| Failure::unprintable(&error))?;
    json.push('\n');
    Ok(escape_json(&json))
}

/// JSON leaves everything above U+001F as it is, and so a bidi override would reach the terminal. Outside of strings there
/// is nothing but ASCII, so each such character can become its `\u` escape: the value stays the same.
fn escape_json(json: &str) -> String {
    if !json.chars().any(is_unsafe) {
        return json.to_owned();
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_unsafe(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

fn is_unsafe(c: char) -> bool {
    let mut bytes = [0; 4];
    let text: &str = c.encode_utf8(&mut bytes);
    c != '\n' && crate::text::line(text) != text
}

fn yaml<T: Serialize>(value: &T) -> Result<String, Failure> {
    let mut yaml = serde_saphyr::to_string(value).map_err(|error| Failure::unprintable(&error))?;
    if yaml.chars().any(is_unsafe) {
        // JSON is YAML too, and it can carry any text as escapes.
        return json_pretty(value);
    }
    if !yaml.ends_with('\n') {
        yaml.push('\n');
    }
    Ok(yaml)
}

/// True if a screen can be drawn: stdin and stdout are a terminal.
#[must_use]
pub fn can_draw() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// True if questions can be asked: stdin and stderr are a terminal.
#[must_use]
pub fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::json;

    use super::*;

    /// A stream that a test can read back.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Tape(Arc<Mutex<Vec<u8>>>);

    impl Tape {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Tape {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    pub(crate) fn taped(format: Format) -> (Output, Tape, Tape) {
        let (out, err) = (Tape::default(), Tape::default());
        let settings = Settings { format, ..Settings::default() };
        (Output::to(settings, Box::new(out.clone()), Box::new(err.clone())), out, err)
    }

    fn emitted(format: Format) -> String {
        let (mut output, out, err) = taped(format);
        let items = [json!({"app": "a\u{202e}\u{1b}", "n": 1}), json!({"app": "b", "n": 2})];
        output.emit_list(&items, |page| page.line("two apps")).unwrap();
        assert_eq!(err.text(), "");
        out.text()
    }

    #[test]
    fn each_format_carries_the_same_data() {
        assert_eq!(emitted(Format::Table), "two apps\n");
        assert_eq!(
            emitted(Format::Jsonl),
            "{\"app\":\"a\\u202e\\u001b\",\"n\":1}\n{\"app\":\"b\",\"n\":2}\n"
        );
        let parsed: serde_json::Value = serde_json::from_str(&emitted(Format::Json)).unwrap();
        assert_eq!(parsed[0]["app"], "a\u{202e}\u{1b}");
    }

    #[test]
    fn no_format_lets_an_escape_through() {
        for format in [Format::Table, Format::Json, Format::Jsonl, Format::Yaml] {
            assert!(!emitted(format).chars().any(is_unsafe), "{format:?}");
        }
    }

    #[test]
    fn yaml_is_plain_where_the_text_is() {
        let (mut output, out, _) = taped(Format::Yaml);
        output.emit(&json!({"app": "my-api", "ready": 2}), |_| {}).unwrap();
        assert_eq!(out.text(), "app: my-api\nready: 2\n");
    }

    #[test]
    fn a_stream_writes_one_object_per_line() {
        let (mut output, out, _) = taped(Format::Json);
        for n in 0..2 {
            output.emit_item(&json!({ "n": n }), |_| {}).unwrap();
        }
        assert_eq!(out.text(), "{\"n\":0}\n{\"n\":1}\n");
    }

    #[test]
    fn notes_never_reach_stdout() {
        let (mut output, out, err) = taped(Format::Json);
        output.say("starting");
        output.detail("only with -v");
        assert_eq!((out.text().as_str(), err.text().as_str()), ("", "starting\n"));
    }

    #[test]
    fn a_reader_that_left_is_not_an_error() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut output = Output::to(Settings::default(), Box::new(Closed), Box::new(Closed));
        let failure = output.page(|page| page.line("x")).unwrap_err();
        assert!(failure.is_silent());
        assert_eq!(failure.exit(), crate::exit::Exit::Ok);
    }
}
