//! Which server, which token, which environment: a flag wins over the environment, that over the context, that over the
//! default. Each setting keeps where it came from.

use std::path::{Path, PathBuf};

use agentctl_api::client::Tls;

use super::{DEFAULT_ADDRESS, Sourced, is_loopback};
use crate::cli::Global;
use crate::config::{self, Contexts, Profile};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::server;

pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The environment of this process; an empty variable is none.
pub(crate) fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// How a server is reached.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    /// Where it is.
    pub(crate) address: Sourced,
    /// Token, if there is one.
    pub(crate) token: Option<Sourced>,
    /// How it is trusted.
    pub(crate) tls: Tls,
    /// Where that comes from.
    pub(crate) tls_origin: String,
    /// Environment it has to serve.
    pub(crate) environment: Option<Sourced>,
    /// Name of the context in use.
    pub(crate) context: Option<Sourced>,
    /// File of contexts.
    pub(crate) file: Option<PathBuf>,
}

/// The context in use.
struct Chosen {
    profile: Profile,
    /// As messages name it: "context `stage`".
    origin: String,
    /// Directory its paths are relative to.
    directory: PathBuf,
}

/// Settles everything.
///
/// # Errors
/// A file that is not valid, a context that is not there, a token file that is not usable.
pub(crate) fn resolve(global: &Global, env: Env<'_>) -> Result<Resolved, Failure> {
    let file = config::path(env);
    let (context, chosen) = context(global, env, file.as_deref())?;
    let address = address(global, env, chosen.as_ref());
    // What a context says about its server says nothing about another one: above all, its token stays at home.
    let own = chosen.filter(|_| !matches!(&*address.origin, "--address" | "AGENTCTL_ADDRESS"));
    let token = token(global, &address.value, env, own.as_ref())?;
    let (tls, tls_origin) = tls(global, own.as_ref())?;
    let environment = match (&global.env, own) {
        (Some(value), _) => Some(Sourced { value: value.clone(), origin: "--env".to_owned() }),
        (None, Some(Chosen { profile: Profile { env: Some(value), .. }, origin, .. })) => {
            Some(Sourced { value, origin })
        }
        _ => None,
    };
    Ok(Resolved { address, token, tls, tls_origin, environment, context, file })
}

/// `--context`, then `AGENTCTL_CONTEXT`, then the current one of the file.
fn context(
    global: &Global,
    env: Env<'_>,
    file: Option<&Path>,
) -> Result<(Option<Sourced>, Option<Chosen>), Failure> {
    let named = match (&global.context, env("AGENTCTL_CONTEXT")) {
        (Some(value), _) => Some((value.clone(), "--context")),
        (None, Some(value)) => Some((value, "AGENTCTL_CONTEXT")),
        (None, None) => None,
    };
    let Some(file) = file else {
        return match named {
            None => Ok((None, None)),
            Some((value, origin)) => {
                Err(unknown(&value, origin, &Contexts::default())
                    .fact("file", "none: HOME is not set"))
            }
        };
    };
    let contexts = Contexts::load(file)?;
    let (value, origin) = match named {
        Some((value, origin)) => (value, origin.to_owned()),
        None => match &contexts.current {
            Some(value) => (value.clone(), file.display().to_string()),
            None => return Ok((None, None)),
        },
    };
    let Some(profile) = contexts.contexts.get(&value) else {
        return Err(unknown(&value, &origin, &contexts).fact("file", file.display().to_string()));
    };
    let chosen = Chosen {
        profile: profile.clone(),
        origin: format!("context `{value}`"),
        directory: file.parent().unwrap_or_else(|| Path::new(".")).to_owned(),
    };
    Ok((Some(Sourced { value, origin }), Some(chosen)))
}

fn unknown(name: &str, origin: &str, contexts: &Contexts) -> Failure {
    let failure =
        Failure::new(Exit::NotFound, format!("context `{name}` (from {origin}) is not known"));
    let known: Vec<&str> = contexts.contexts.keys().map(String::as_str).collect();
    if known.is_empty() {
        failure.hint(format!("`agentctl context set {name} --address HOST:PORT` makes it"))
    } else {
        failure.hint(format!("there are: {}", known.join(", ")))
    }
}

/// `--address`, then `AGENTCTL_ADDRESS`, then the context, then the default.
fn address(global: &Global, env: Env<'_>, chosen: Option<&Chosen>) -> Sourced {
    let of_context =
        chosen.and_then(|chosen| Some((chosen.profile.address.clone()?, &*chosen.origin)));
    let (value, origin) = match (&global.address, env("AGENTCTL_ADDRESS"), of_context) {
        (Some(value), ..) => (value.clone(), "--address"),
        (None, Some(value), _) => (value, "AGENTCTL_ADDRESS"),
        (None, None, Some((value, origin))) => (value, origin),
        (None, None, None) => (DEFAULT_ADDRESS.to_owned(), "the default"),
    };
    Sourced { value, origin: origin.to_owned() }
}

/// `--tls-ca` and `--plaintext`, then the context, then what the address asks for.
fn tls(global: &Global, chosen: Option<&Chosen>) -> Result<(Tls, String), Failure> {
    let read = |path: &Path, origin: &str| {
        std::fs::read(path).map(|pem| (Tls::Roots(pem), origin.to_owned())).map_err(|error| {
            let what = format!(
                "cannot read the certificate authority `{}` (from {origin})",
                path.display()
            );
            Failure::because(Exit::Usage, &what, &error)
        })
    };
    match (&global.tls_ca, global.plaintext, chosen) {
        (Some(path), ..) => read(path, "--tls-ca"),
        (None, true, _) => Ok((Tls::Plaintext, "--plaintext".to_owned())),
        (None, false, Some(Chosen { profile, origin, directory })) => match &profile.tls_ca {
            Some(path) => read(&directory.join(path), origin),
            None if profile.plaintext => Ok((Tls::Plaintext, origin.clone())),
            None => Ok((Tls::Automatic, "the default".to_owned())),
        },
        (None, false, None) => Ok((Tls::Automatic, "the default".to_owned())),
    }
}

/// `--token`, then `--token-file`, then `AGENTCTL_TOKEN`, then the context, then the token file of a server on this host;
/// `None` if there is none. The token of a local server is never sent to another host, unless its directory was named.
fn token(
    global: &Global,
    address: &str,
    env: Env<'_>,
    chosen: Option<&Chosen>,
) -> Result<Option<Sourced>, Failure> {
    let found = |value: String, origin: String| Ok(Some(Sourced { value, origin }));
    let of_context = chosen.and_then(|chosen| chosen.profile.principal.as_deref());
    let principal = global.principal.as_deref().or(of_context).unwrap_or("local");
    if let Some(token) = &global.token {
        return found(token.clone(), "--token".to_owned());
    }
    if let Some(path) = &global.token_file {
        return found(token_in(path, principal)?, format!("--token-file {}", path.display()));
    }
    if let Some(token) = env("AGENTCTL_TOKEN") {
        return found(token, "AGENTCTL_TOKEN".to_owned());
    }
    let directory = global.data_dir.clone().or_else(|| env("AGENTD_DATA_DIR"));
    if let (None, Some(Chosen { profile, origin, directory })) = (&global.data_dir, chosen)
        && let Some(path) = &profile.token_file
    {
        let path = directory.join(path);
        return found(token_in(&path, principal)?, format!("{origin}, {}", path.display()));
    }
    let of_context = || chosen.and_then(|chosen| chosen.profile.data_dir.clone());
    if let Some(directory) = directory.or_else(of_context) {
        let path = Path::new(&directory).join(server::TOKENS_FILE);
        return found(server::plain_token(&path, principal)?, shown(&path));
    }
    if !is_loopback(address) {
        return Ok(None);
    }
    for path in server::local_token_files() {
        if path.exists() {
            return found(server::plain_token(&path, principal)?, shown(&path));
        }
    }
    Ok(None)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// A token file is the server's, with principals, or one with nothing but a token.
fn token_in(path: &Path, principal: &str) -> Result<String, Failure> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    if matches!(extension, Some("toml" | "json")) {
        return server::plain_token(path, principal);
    }
    let text = std::fs::read_to_string(path).map_err(|error| {
        let what = format!("cannot read token file `{}`", path.display());
        Failure::because(Exit::Usage, &what, &error)
    })?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nowhere(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn a_flag_beats_the_environment_and_that_the_context_and_that_the_default() {
        let set = |name: &str| Some(format!("{name}:1"));
        let flagged = Global { address: Some("h:2".to_owned()), ..Global::default() };
        let chosen = Chosen {
            profile: Profile { address: Some("c:3".to_owned()), ..Profile::default() },
            origin: "context `c`".to_owned(),
            directory: PathBuf::new(),
        };
        let none = Global::default();
        assert_eq!(address(&flagged, &set, Some(&chosen)).value, "h:2");
        assert_eq!(address(&none, &set, Some(&chosen)).origin, "AGENTCTL_ADDRESS");
        assert_eq!(address(&none, &nowhere, Some(&chosen)).origin, "context `c`");
        assert_eq!(address(&none, &nowhere, None).value, DEFAULT_ADDRESS);
    }

    #[test]
    fn a_token_comes_from_the_flag_the_file_or_the_environment_in_this_order() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        std::fs::write(&file, "from-file\n").unwrap();
        let set = |name: &str| (name == "AGENTCTL_TOKEN").then(|| "from-env".to_owned());
        let mut global = Global { token: Some("from-flag".to_owned()), ..Global::default() };
        let mut origins = Vec::new();
        for _ in 0..3 {
            let found = token(&global, DEFAULT_ADDRESS, &set, None).unwrap().unwrap();
            origins.push(found.value);
            global.token_file = global.token.take().map(|_| file.clone());
        }
        assert_eq!(origins, ["from-flag", "from-file", "from-env"]);
    }

    #[test]
    fn the_token_of_a_local_server_never_goes_to_another_host_by_itself() {
        let global = Global::default();
        assert_eq!(token(&global, "10.0.0.9:7443", &nowhere, None).unwrap(), None);
    }

    /// A directory with a file of contexts, and an environment that names it.
    fn with_contexts(text: &str) -> (tempfile::TempDir, impl Fn(&str) -> Option<String> + use<>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agentctl.toml");
        std::fs::write(&path, text).unwrap();
        std::fs::write(directory.path().join("stage.token"), "of-stage").unwrap();
        let path = path.display().to_string();
        (directory, move |name: &str| (name == "AGENTCTL_CONFIG").then(|| path.clone()))
    }

    const STAGE: &str = "current = 'stage'\n[contexts.stage]\naddress = 'stage.example.org:7443'\n\
                         token_file = 'stage.token'\nenv = 'stage'\n[contexts.local]\n";

    #[test]
    fn a_context_brings_its_address_its_token_and_the_environment_it_expects() {
        let (_directory, env) = with_contexts(STAGE);
        let resolved = resolve(&Global::default(), &env).unwrap();
        assert_eq!(resolved.address.value, "stage.example.org:7443");
        assert_eq!(resolved.address.origin, "context `stage`");
        assert_eq!(resolved.token.unwrap().value, "of-stage");
        assert_eq!(resolved.environment.unwrap().value, "stage");
        let local = Global { context: Some("local".to_owned()), ..Global::default() };
        assert_eq!(resolve(&local, &env).unwrap().address.value, DEFAULT_ADDRESS);
    }

    #[test]
    fn the_token_of_a_context_is_never_sent_to_another_address() {
        let (_directory, env) = with_contexts(STAGE);
        let elsewhere = Global { address: Some("10.0.0.9:7443".to_owned()), ..Global::default() };
        let resolved = resolve(&elsewhere, &env).unwrap();
        assert_eq!((resolved.token, resolved.environment), (None, None));
    }

    #[test]
    fn a_context_that_is_not_there_is_not_found_and_the_others_are_named() {
        let (_directory, env) = with_contexts(STAGE);
        let global = Global { context: Some("prod".to_owned()), ..Global::default() };
        let failure = resolve(&global, &env).unwrap_err();
        assert_eq!(failure.exit(), Exit::NotFound);
        let mut page = crate::page::Page::default();
        failure.page(&mut page);
        let text = page.render(false);
        assert!(text.contains("context `prod` (from --context) is not known"), "{text}");
        assert!(text.contains("there are: local, stage"), "{text}");
    }
}
