//! The agentd binary: arguments in, exit code out.

use std::process::ExitCode;

use agentd::app::{App, Host};
use agentd::config::{Config, ServerArgs};
use agentd::telemetry::Settings;
use clap::Parser;

/// Exit code of a configuration that cannot be used (sysexits.h, `EX_CONFIG`).
const EX_CONFIG: u8 = 78;

/// Self-healing control plane: the server of one environment.
#[derive(Debug, Parser)]
#[command(name = "agentd", version, about, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    server: ServerArgs,

    /// Print every setting with its value and where it came from, and end
    #[arg(
        long,
        value_name = "FORMAT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "toml"
    )]
    dump_config: Option<DumpFormat>,
}

/// How settings are printed.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum DumpFormat {
    /// A configuration file with comments.
    Toml,
    /// One JSON document.
    Json,
}

const EXAMPLES: &str = "Examples:
  agentd --env stage --data-dir /var/lib/agentd/stage
  agentd --env dev --listen 127.0.0.1:0 --log-format json
  agentd --config deploy/agentd.toml --dump-config        what is in force, and why";

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
    if let Some(format) = cli.dump_config {
        return dump(&config, format);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(log_and_serve(config));
            // A name look-up that hangs must not hold the process.
            runtime.shutdown_timeout(std::time::Duration::from_secs(1));
            code
        }
        Err(error) => fail(&error, 1),
    }
}

async fn log_and_serve(config: Config) -> ExitCode {
    let export = match agentd::telemetry::init(Settings::of(&config)) {
        Ok(export) => export,
        Err(error) => return fail(&error, EX_CONFIG),
    };
    let code = serve(config).await;
    // The connection to a collector lives on this runtime, so it is not blocked meanwhile.
    let sent = tokio::task::spawn_blocking(move || export.shut_down()).await;
    if sent.is_err() { ExitCode::FAILURE } else { code }
}

async fn serve(config: Config) -> ExitCode {
    let Ok(program) = std::env::current_exe() else {
        return fail(&"cannot find this program's own path", 1);
    };
    let host = Host { shim: vec![program, "shim".into()], demo_app: Vec::new() };
    let app = match App::start(config, host).await {
        Ok(app) => app,
        Err(error) => {
            let code = if error.is_configuration() { EX_CONFIG } else { 1 };
            return fail(&chain(&error), code);
        }
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

fn dump(config: &Config, format: DumpFormat) -> ExitCode {
    use std::io::Write as _;
    let text = match format {
        DumpFormat::Toml => config.dump(),
        DumpFormat::Json => match serde_json::to_string_pretty(&config.lines()) {
            Ok(text) => text + "\n",
            Err(error) => return fail(&error, 1),
        },
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
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
