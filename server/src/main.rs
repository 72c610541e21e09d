//! The agentd binary: arguments in, exit code out.

use std::process::ExitCode;

use agentd::app::{App, Host};
use agentd::config::{Config, ServerArgs};
use clap::Parser;

/// Exit code of a configuration that cannot be used (sysexits.h, `EX_CONFIG`).
const EX_CONFIG: u8 = 78;

/// Self-healing control plane: the server of one environment.
#[derive(Debug, Parser)]
#[command(name = "agentd", version, about, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    server: ServerArgs,
}

const EXAMPLES: &str = "Examples:
  agentd --env stage --data-dir /var/lib/agentd/stage
  agentd --env dev --listen 127.0.0.1:0 --log-format json";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if let (Some(command), Some(dir)) = (arguments.next(), arguments.next())
        && command == "shim"
    {
        // One small process per instance: it must not pay for anything the server needs.
        return agentd::shim::main(dir.as_ref());
    }
    let cli = Cli::parse();
    let config = match Config::load(&cli.server) {
        Ok(config) => config,
        Err(error) => return fail(&error, EX_CONFIG),
    };
    if let Err(error) = agentd::telemetry::init(config.log_format, &config.log_filter) {
        return fail(&error, EX_CONFIG);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(serve(config));
            // A name look-up that hangs must not hold the process.
            runtime.shutdown_timeout(std::time::Duration::from_secs(1));
            code
        }
        Err(error) => fail(&error, 1),
    }
}

async fn serve(config: Config) -> ExitCode {
    let Ok(program) = std::env::current_exe() else {
        return fail(&"cannot find this program's own path", 1);
    };
    let host = Host { shim: vec![program, "shim".into()], demo_app: Vec::new() };
    let app = match App::start(config, host).await {
        Ok(app) => app,
        Err(error) => return fail(&chain(&error), EX_CONFIG),
    };
    match app.asked_to_stop() {
        Ok(asked) => {
            tracing::info!(address = %app.address(), agent_id = app.agent_id(), "serving");
            asked.await;
        }
        Err(error) => tracing::error!(%error, "cannot wait for signals"),
    }
    match app.stop().await {
        Some(_) => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    }
}

/// An error with everything that led to it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[expect(clippy::print_stderr, reason = "nothing else can be told before the log is set up")]
fn fail(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(code)
}
