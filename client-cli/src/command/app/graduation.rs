//! `agentctl app graduation`: the case for leaving more of an app to the agent.

use agentctl_api::v1;

use super::super::{Context, pieces};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::{Page, Table};
use crate::view::app::GraduationView;

pub(super) async fn run(name: &str, context: &mut Context) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let request = v1::GetAppGraduationRequest { name: name.to_owned() };
    let answer = session.onboarding().get_app_graduation(session.unary(request)).await;
    let actions = answer.map_err(|s| session.failure(s))?.into_inner().actions;
    let views: Vec<_> = actions.iter().map(GraduationView::from).collect();
    context.output.emit_list(&views, |to| page(to, &views))?;
    Ok(Exit::Ok)
}

fn page(page: &mut Page, actions: &[GraduationView]) {
    let head = ["ACTION", "LEVEL", "ANSWERED", "AGREED", "FAILED", "DIFFERED", "UNNEEDED", "ALONE"];
    let mut table = Table::new(&head).right(&[2, 3, 4, 5, 6]);
    for action in actions {
        let alone = match (action.held, action.failed) {
            (0, 0) => pieces::NONE.to_owned(),
            (held, failed) => format!("{held} held, {failed} did not"),
        };
        table.row([
            action.action.clone(),
            action.level.clone(),
            action.answered.to_string(),
            action.agreed.to_string(),
            action.unproven.to_string(),
            action.differed.to_string(),
            action.unneeded.to_string(),
            alone,
        ]);
    }
    page.table(&table);
    for action in actions {
        if let Some(time) = &action.demote_time {
            page.line(format!("! {} was taken back from the agent at {time}", action.action));
        }
    }
    let asked = |action: &&GraduationView| action.answered > 0;
    let Some(most) = actions.iter().filter(asked).max_by_key(|action| action.answered) else {
        page.line("humans answered no decision about it yet");
        return;
    };
    page.line(format!("{} graduates with:", most.action));
    for condition in &most.conditions {
        let glyph = if condition.met { "✔" } else { "✖" };
        let (value, limit) = (&condition.value, &condition.limit);
        page.line(format!("  {glyph} {}: {value}, at least {limit}", condition.what));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Format;
    use crate::output::tests::taped;

    fn restart(answered: u32) -> v1::ActionGraduation {
        let condition = v1::GraduationCondition {
            what: "decisions that humans answered".to_owned(),
            value: answered.to_string(),
            limit: "20".to_owned(),
            met: answered >= 20,
        };
        v1::ActionGraduation {
            action: "RESTART".to_owned(),
            level: v1::AutonomyLevel::Propose.into(),
            answered,
            agreed: answered,
            conditions: vec![condition],
            demote_time: Some(prost_types::Timestamp { seconds: 1_795_442_531, nanos: 0 }),
            ..v1::ActionGraduation::default()
        }
    }

    #[test]
    fn what_is_missing_is_said_with_the_numbers() {
        let (mut output, out, _) = taped(Format::Table);
        let views = [GraduationView::from(&restart(7))];
        output.emit_list(&views, |to| page(to, &views)).unwrap();
        let text = out.text();
        for part in [
            "RESTART  propose         7       7",
            "! RESTART was taken back from the agent at 2026-11-23T14:02:11Z",
            "  ✖ decisions that humans answered: 7, at least 20",
        ] {
            assert!(text.contains(part), "`{part}` in:\n{text}");
        }
    }
}
