//! `agentctl env`: the environments and what the agent may do alone in each.

use agentctl_api::v1;
use clap::{Args, Subcommand};
use serde::Serialize;

use agentd_core::action::{Action, Level};
use agentd_core::app::Env;
use agentd_core::policy::Policy;

use super::{Context, pieces};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::page::Table;

/// Show the environments and what the agent may do alone in each
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentctl env list
  agentctl env describe prod")]
pub struct EnvArgs {
    #[command(subcommand)]
    command: EnvCommand,
}

#[derive(Debug, Subcommand)]
enum EnvCommand {
    /// List the environments; the served one is asked for its policy
    #[command(after_help = "\
Examples:
  agentctl env list
  agentctl env list -o json | jq -r '.[] | select(.served) | .name'

Without a server the built-in policies are shown.")]
    List,
    /// Show the levels of one environment, action by action
    #[command(after_help = "\
Examples:
  agentctl env describe                      the one the server serves
  agentctl env describe prod

Exit codes: 0 shown, 2 there is no such environment.")]
    Describe {
        /// dev, stage or prod [default: the one the server serves]
        #[arg(value_name = "NAME")]
        name: Option<String>,
    },
}

/// An environment, for programs.
#[derive(Debug, Serialize)]
struct EnvView {
    name: &'static str,
    served: bool,
    policy: String,
    levels: std::collections::BTreeMap<&'static str, &'static str>,
    exploration: String,
    actions_per_hour: u32,
}

/// Which policy is in force where a server answers.
struct Served {
    env: Env,
    policy: Policy,
    origin: String,
}

pub(super) async fn run(args: EnvArgs, context: &mut Context) -> Result<Exit, Failure> {
    match args.command {
        EnvCommand::List => {
            let served = match served(context).await {
                Ok(served) => Some(served),
                Err(failure) if failure.exit() == Exit::Unreachable => {
                    context.output.say(format!("! {failure}"));
                    None
                }
                Err(failure) => return Err(failure),
            };
            list(served.as_ref(), context)
        }
        EnvCommand::Describe { name } => {
            let named = match &name {
                Some(name) => Some(Env::parse(name).ok_or_else(|| {
                    Failure::usage(format!("there is no environment `{name}`"))
                        .hint("there are dev, stage and prod")
                })?),
                None => None,
            };
            let served = match served(context).await {
                Ok(served) => Some(served),
                // The built-in policy of a named one can be shown without a server.
                Err(failure) if failure.exit() == Exit::Unreachable && named.is_some() => None,
                Err(failure) => return Err(failure),
            };
            let env = named.or_else(|| served.as_ref().map(|s| s.env)).unwrap_or(Env::Dev);
            describe(env, served.as_ref(), context)
        }
    }
}

async fn served(context: &mut Context) -> Result<Served, Failure> {
    let session = context.connect().await?;
    let answer = session.agent().get_policy(session.unary(v1::GetPolicyRequest {})).await;
    let answer = answer.map_err(|s| session.failure(s))?.into_inner();
    let policy: Policy = if answer.format == "json" {
        serde_json::from_str(&answer.text).map_err(|error| Failure::unprintable(&error))?
    } else {
        toml::from_str(&answer.text).map_err(|error| Failure::unprintable(&error))?
    };
    Ok(Served { env: policy.env, policy, origin: answer.origin })
}

fn view(env: Env, served: Option<&Served>) -> EnvView {
    let own = served.filter(|served| served.env == env);
    let policy = own.map_or_else(|| Policy::default_for(env), |served| served.policy.clone());
    EnvView {
        name: env.as_str(),
        served: own.is_some(),
        policy: own.map_or_else(|| "built-in".to_owned(), |served| served.origin.clone()),
        levels: Action::ALL
            .iter()
            .map(|action| (action.as_str(), level(&policy, *action).as_str()))
            .collect(),
        exploration: format!("{}", f64::from(policy.learning.exploration_ppm) / 10_000.0) + "%",
        actions_per_hour: policy.budget.per_hour,
    }
}

/// What the policy allows; absent is off.
fn level(policy: &Policy, action: Action) -> Level {
    policy.levels.get(&action).copied().unwrap_or(Level::Off)
}

fn list(served: Option<&Served>, context: &mut Context) -> Result<Exit, Failure> {
    let views: Vec<_> =
        [Env::Dev, Env::Stage, Env::Prod].into_iter().map(|env| view(env, served)).collect();
    let columns = context.output.columns();
    context.output.emit_list(&views, |page| {
        let mut table =
            Table::new(&["NAME", "SERVED", "ALONE", "BY APPROVAL", "EXPLORES", "PER HOUR"])
                .fit(columns);
        for view in &views {
            let with = |wanted: &str| {
                let names = view.levels.iter().filter(|(_, level)| **level == wanted);
                let names: Vec<_> = names.map(|(action, _)| pieces::action(action)).collect();
                if names.is_empty() { pieces::NONE.to_owned() } else { names.join(" ") }
            };
            table.row([
                view.name.to_owned(),
                if view.served { "● yes".to_owned() } else { "○ no".to_owned() },
                with("AUTO"),
                with("PROPOSE"),
                view.exploration.clone(),
                view.actions_per_hour.to_string(),
            ]);
        }
        page.table(&table);
    })?;
    Ok(Exit::Ok)
}

fn describe(env: Env, served: Option<&Served>, context: &mut Context) -> Result<Exit, Failure> {
    let view = view(env, served);
    context.output.emit(&view, |page| {
        let of = if view.served { "served here" } else { "not served here" };
        page.line(format!("{}  {of}, policy {}", view.name, view.policy));
        page.line(format!(
            "explores {} of its decisions, at most {} disruptive actions per hour",
            view.exploration, view.actions_per_hour
        ));
        let mut table = Table::new(&["ACTION", "LEVEL", "MEANING"]);
        for (action, level) in &view.levels {
            table.row([pieces::action(action).as_str(), level, meaning(level)]);
        }
        page.table(&table);
    })?;
    Ok(Exit::Ok)
}

fn meaning(level: &str) -> &'static str {
    match level {
        "AUTO" => "the agent does it alone",
        "PROPOSE" => "a human does it by approving",
        "SHADOW" => "decided and recorded, not done",
        _ => "refused",
    }
}
