//! Text for people: lines, aligned rows and tables. Every piece of text is made harmless on its way in, and colour is put
//! on at the very end, so that widths are those of plain text and nothing foreign can colour anything.

use anstyle::{AnsiColor, Style};
use comfy_table::{CellAlignment, ContentArrangement, presets};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::text;

/// A column as it is named on the command line: `LAST DECISION` is `last-decision`.
fn plain(header: &str) -> String {
    header.trim().to_ascii_lowercase().replace([' ', '_'], "-")
}

/// Lines for a terminal, a file or a pipe.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    lines: Vec<(Kind, String)>,
    /// Columns to show of tables with headers; empty: all.
    chosen: Vec<String>,
    /// Whether a table had all of them.
    chose: bool,
    /// One that a table did not have, with those it has.
    missing: Option<(String, Vec<&'static str>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Header,
    Error,
    Hint,
}

impl Page {
    /// A page whose tables show only these columns, in this order; none: all.
    #[must_use]
    pub fn choosing(columns: &[String]) -> Self {
        Self { chosen: columns.to_vec(), ..Self::default() }
    }

    /// Whether a table on it had the columns that were asked for.
    ///
    /// # Errors
    /// One of them is in no table: [`Exit::Usage`], with the columns there are.
    pub fn chose(&self) -> Result<bool, Failure> {
        match &self.missing {
            Some((name, known)) if !self.chose => {
                Err(Failure::new(Exit::Usage, format!("there is no column `{name}`"))
                    .hint(format!("the columns are {}", known.join(", "))))
            }
            _ => Ok(self.chose),
        }
    }

    /// Places of the chosen columns in a table with these headers; `None`: all of them are shown.
    fn choose(&mut self, headers: &[&'static str]) -> Option<Vec<usize>> {
        if self.chosen.is_empty() || headers.is_empty() {
            return None;
        }
        let mut places = Vec::new();
        for name in &self.chosen {
            let is_it = |header: &&str| plain(header) == plain(name);
            match headers.iter().position(is_it) {
                Some(place) => places.push(place),
                None => {
                    self.missing = Some((name.clone(), headers.to_vec()));
                    return None;
                }
            }
        }
        self.chose = true;
        Some(places)
    }

    /// Adds one line; a line end inside it is shown as `\n`.
    pub fn line(&mut self, line: impl AsRef<str>) {
        self.push(Kind::Plain, line.as_ref());
    }

    /// Adds an empty line.
    pub fn blank(&mut self) {
        self.push(Kind::Plain, "");
    }

    /// Adds a headline.
    pub fn header(&mut self, line: impl AsRef<str>) {
        self.push(Kind::Header, line.as_ref());
    }

    /// Adds `error: …`.
    pub fn error(&mut self, line: impl AsRef<str>) {
        self.push(Kind::Error, &format!("error: {}", line.as_ref()));
    }

    /// Adds `hint:  …`.
    pub fn hint(&mut self, line: impl AsRef<str>) {
        self.push(Kind::Hint, &format!("hint:  {}", line.as_ref()));
    }

    /// Adds text that has lines of its own.
    pub fn block(&mut self, block: &str) {
        for line in block.lines() {
            self.push(Kind::Plain, &line.replace('\t', "    "));
        }
    }

    /// Adds rows of two columns with the first one aligned, each behind `indent` spaces.
    pub fn pairs<K: AsRef<str>, V: AsRef<str>>(&mut self, indent: usize, rows: &[(K, V)]) {
        let rows: Vec<_> =
            rows.iter().map(|(k, v)| (text::line(k.as_ref()), text::line(v.as_ref()))).collect();
        let widest = rows.iter().map(|(key, _)| text::width(key)).max().unwrap_or(0);
        for (key, value) in rows {
            self.line(format!("{}{}  {value}", " ".repeat(indent), text::pad(&key, widest)));
        }
    }

    /// Adds a table.
    pub fn table(&mut self, table: &Table) {
        table.render(self);
    }

    fn push(&mut self, kind: Kind, line: &str) {
        self.lines.push((kind, text::line(line).trim_end().to_owned()));
    }

    /// The lines, with colour if `paint`.
    #[must_use]
    pub fn render(&self, paint: bool) -> String {
        let mut out = String::new();
        for (kind, line) in &self.lines {
            match (paint, kind) {
                (false, _) => out.push_str(line),
                (true, Kind::Plain) => paint_glyphs(line, &mut out),
                (true, Kind::Header) => paint_with(line, Style::new().bold(), &mut out),
                (true, Kind::Error) => paint_label(line, fg(AnsiColor::Red).bold(), &mut out),
                (true, Kind::Hint) => paint_label(line, fg(AnsiColor::Cyan), &mut out),
            }
            out.push('\n');
        }
        out
    }
}

const fn fg(color: AnsiColor) -> Style {
    Style::new().fg_color(Some(anstyle::Color::Ansi(color)))
}

fn paint_with(text: &str, style: Style, out: &mut String) {
    out.push_str(&format!("{style}{text}{style:#}"));
}

/// Paints what comes before the first colon.
fn paint_label(line: &str, style: Style, out: &mut String) {
    match line.split_once(':') {
        Some((label, rest)) => {
            paint_with(&format!("{label}:"), style, out);
            out.push_str(rest);
        }
        None => out.push_str(line),
    }
}

/// A status is a glyph and a word; only the glyph has a colour, so nothing is lost without it.
fn paint_glyphs(line: &str, out: &mut String) {
    for c in line.chars() {
        let style = match c {
            '✔' | '●' => fg(AnsiColor::Green),
            '✖' => fg(AnsiColor::Red).bold(),
            '◐' | '◷' | '!' | '▶' => fg(AnsiColor::Yellow),
            '○' | '·' | '–' => Style::new().dimmed(),
            _ => {
                out.push(c);
                continue;
            }
        };
        paint_with(c.encode_utf8(&mut [0; 4]), style, out);
    }
}

/// A table without borders.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    headers: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    right: Vec<usize>,
    indent: usize,
    columns: Option<u16>,
}

impl Table {
    /// A table with these headers; without any, only rows are shown.
    #[must_use]
    pub fn new(headers: &[&'static str]) -> Self {
        Self { headers: headers.to_vec(), ..Self::default() }
    }

    /// Aligns these columns to the right.
    #[must_use]
    pub fn right(mut self, columns: &[usize]) -> Self {
        self.right = columns.to_vec();
        self
    }

    /// Shifts the table to the right.
    #[must_use]
    pub const fn indent(mut self, spaces: usize) -> Self {
        self.indent = spaces;
        self
    }

    /// Wraps the text of cells so that the table fits; `None`: never wraps.
    #[must_use]
    pub const fn fit(mut self, columns: Option<u16>) -> Self {
        self.columns = columns;
        self
    }

    /// Adds a row.
    pub fn row<S: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let cells = cells.into_iter().map(|cell| text::line(cell.as_ref()).into_owned());
        self.rows.push(cells.collect());
    }

    /// True without rows.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn render(&self, page: &mut Page) {
        match page.choose(&self.headers) {
            Some(places) => self.only(&places).draw(page),
            None => self.draw(page),
        }
    }

    /// The same table with these columns alone.
    fn only(&self, places: &[usize]) -> Self {
        let pick = |row: &Vec<String>| {
            places.iter().map(|place| row.get(*place).cloned().unwrap_or_default()).collect()
        };
        let right = |(new, old): (usize, &usize)| self.right.contains(old).then_some(new);
        Self {
            headers: places.iter().filter_map(|place| self.headers.get(*place).copied()).collect(),
            rows: self.rows.iter().map(pick).collect(),
            right: places.iter().enumerate().filter_map(right).collect(),
            indent: self.indent,
            columns: self.columns,
        }
    }

    fn draw(&self, page: &mut Page) {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        match self.columns {
            Some(columns) => {
                let room = columns.saturating_sub(u16::try_from(self.indent).unwrap_or(0));
                table.set_content_arrangement(ContentArrangement::Dynamic).set_width(room);
            }
            None => {
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        if !self.headers.is_empty() {
            table.set_header(self.headers.iter().copied());
        }
        table.add_rows(&self.rows);
        table.discover_columns();
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            if self.right.contains(&index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let indent = " ".repeat(self.indent);
        for (index, line) in table.lines().enumerate() {
            let kind =
                if index == 0 && !self.headers.is_empty() { Kind::Header } else { Kind::Plain };
            page.push(kind, &format!("{indent}{line}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_has_no_trailing_spaces() {
        let mut table = Table::new(&["APP", "HEALTH", "CPU"]).right(&[2]);
        table.row(["my-api", "● healthy", "61%"]);
        table.row(["日本", "◐ degraded", "9%"]);
        let mut page = Page::default();
        page.table(&table);
        assert_eq!(
            page.render(false),
            "APP     HEALTH      CPU\nmy-api  ● healthy   61%\n日本    ◐ degraded   9%\n"
        );
    }

    #[test]
    fn a_cell_cannot_forge_a_row_or_a_colour() {
        let mut table = Table::new(&["APP", "WHY"]);
        table.row(["a\n✔ approved", "\x1b[32mgreen\u{202e}"]);
        let mut page = Page::default();
        page.table(&table);
        page.line("x\r\ny");
        assert_eq!(
            page.render(false),
            "APP            WHY\na\\n✔ approved  \\u{1b}[32mgreen\\u{202e}\nx\\r\\ny\n"
        );
    }

    #[test]
    fn colour_is_added_only_when_asked_for_and_changes_no_text() {
        let mut page = Page::default();
        page.error("it broke");
        page.hint("mend it");
        page.line("✔ restart  ✖ refused");
        let painted = page.render(true);
        assert!(painted.contains('\x1b'));
        assert_eq!(anstream::adapter::strip_str(&painted).to_string(), page.render(false));
        assert!(!page.render(false).contains('\x1b'));
    }

    #[test]
    fn columns_are_chosen_by_name_and_an_unknown_one_names_those_there_are() {
        let mut table = Table::new(&["APP", "LAST DECISION", "CPU"]).right(&[2]);
        table.row(["my-api", "restart", "9%"]);
        let mut page = Page::choosing(&["cpu".to_owned(), "last-decision".to_owned()]);
        page.table(&table);
        assert_eq!(page.render(false), "CPU  LAST DECISION\n 9%  restart\n");
        assert!(page.chose().unwrap());
        let mut page = Page::choosing(&["memory".to_owned()]);
        page.table(&table);
        let failure = page.chose().unwrap_err();
        let mut told = Page::default();
        failure.page(&mut told);
        assert_eq!(
            told.render(false),
            "error: there is no column `memory`\nhint:  the columns are APP, LAST DECISION, CPU\n"
        );
        // Not every page has a table; whether none had is asked at the end.
        assert!(!Page::choosing(&["cpu".to_owned()]).chose().unwrap());
    }

    #[test]
    fn pairs_line_up() {
        let mut page = Page::default();
        page.pairs(2, &[("name", "my-api"), ("runtime", "rust")]);
        assert_eq!(page.render(false), "  name     my-api\n  runtime  rust\n");
    }

    #[test]
    fn a_table_wraps_where_it_is_told_how_much_room_there_is() {
        let mut table = Table::new(&["A", "B"]).fit(Some(20));
        table.row(["one", "a long sentence that wraps"]);
        let mut page = Page::default();
        page.table(&table);
        assert!(page.render(false).lines().all(|line| text::width(line) <= 20));
        assert!(page.render(false).lines().count() > 2);
    }
}
