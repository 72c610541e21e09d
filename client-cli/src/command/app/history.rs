//! `agentctl app history`: what was done to an app.

use agentctl_api::v1;
use clap::Args;

use super::super::{Context, pieces};
use crate::connect::Session;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::{Page, Table};
use crate::text;
use crate::time::{self, TimeStyle};
use crate::view::app::AppChangeView;

#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    /// App
    #[arg(value_name = "APP")]
    name: String,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i32).range(1..=1000))]
    limit: i32,
}

pub(super) async fn run(args: HistoryArgs, context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let changes = fetch(&session, &args.name, args.limit).await?;
    let views: Vec<_> = changes.iter().map(AppChangeView::from).collect();
    let style = context.output.settings().time;
    context.output.emit_list(&views, |to| page(to, &changes, style))?;
    Ok(Exit::Ok)
}

/// The newest changes; a page that ends short goes on.
pub(super) async fn fetch(
    session: &Session,
    name: &str,
    limit: i32,
) -> Result<Vec<v1::AppChange>, Failure> {
    let wanted = usize::try_from(limit).unwrap_or(0);
    let (mut changes, mut page_token) = (Vec::new(), String::new());
    loop {
        let left = wanted.saturating_sub(changes.len());
        let request = v1::ListAppHistoryRequest {
            name: name.to_owned(),
            page_size: i32::try_from(left).unwrap_or(limit),
            page_token,
        };
        let answer = session.onboarding().list_app_history(session.unary(request)).await;
        let response = answer.map_err(|s| session.failure(s))?.into_inner();
        changes.extend(response.changes);
        page_token = response.next_page_token;
        if page_token.is_empty() && changes.is_empty() {
            return Err(Failure::new(Exit::NotFound, format!("the log knows no app `{name}`")));
        }
        if page_token.is_empty() || changes.len() >= wanted {
            return Ok(changes);
        }
    }
}

pub(super) fn page(page: &mut Page, changes: &[v1::AppChange], style: Option<TimeStyle>) {
    let now = time::now();
    let mut table = Table::new(&["WHEN", "REVISION", "WHAT", "WHO", "PROOF"]);
    for change in changes {
        let what = if change.fields.is_empty() {
            change.summary.clone()
        } else {
            format!("{}: {}", change.summary, change.fields.join(", "))
        };
        table.row([
            pieces::moment(change.time.as_ref(), style, TimeStyle::Relative, now),
            if change.revision.is_empty() {
                pieces::NONE.to_owned()
            } else {
                change.revision.clone()
            },
            text::fit(&what, 80),
            change.actor.clone(),
            format!("#{}", change.seq),
        ]);
    }
    page.table(&table);
}
