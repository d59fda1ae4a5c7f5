//! Finding the values: file, environment, flags.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use betcode_storage::{Durability, resolve_links};

use super::Settings;
use super::table::{Kind, PARAMETERS, Parameter};

/// Why settings are not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("settings file {path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// There is no such parameter.
    #[error("{origin}: there is no parameter {name}; `betcode-daemon config` lists them")]
    Unknown {
        /// Where it stands.
        origin: Origin,
        /// Its name.
        name: String,
    },
    /// A value that the parameter does not take.
    #[error("{origin}: {name} is {value:?}, and takes {takes}")]
    Value {
        /// Where it stands.
        origin: Origin,
        /// The parameter.
        name: &'static str,
        /// The value.
        value: String,
        /// What it takes.
        takes: String,
    },
    /// A value or a path that is no text: what it would be read as names something else.
    #[error("{origin}: {name} is {value:?}, which is not UTF-8; use a value that is")]
    NotText {
        /// Where it stands, or follows from.
        origin: Origin,
        /// The parameter.
        name: &'static str,
        /// The value.
        value: OsString,
    },
    /// Values that do not go together.
    #[error("{0}")]
    Together(String),
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said one.
    Default,
    /// The settings file.
    File(PathBuf),
    /// The environment variable.
    Environment(String),
    /// The flag.
    Flag(String),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// Where to look.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The settings file.
    pub file: Option<PathBuf>,
    /// The environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Flags: parameter names and values.
    pub flags: Vec<(String, String)>,
}

/// The outcome.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The settings in force.
    pub settings: Settings,
    /// Each parameter's value, as text, and where it came from, in the table's order.
    pub values: Vec<(&'static Parameter, String, Origin)>,
}

type Values = BTreeMap<&'static str, (String, Origin)>;

/// Finds all values and checks them.
///
/// # Errors
/// [`SettingsError`], the first thing that is wrong.
pub fn load(sources: &Sources) -> Result<Loaded, SettingsError> {
    let mut values = Values::new();
    if let Some(path) = &sources.file {
        from_file(path, &mut values)?;
    }
    for (name, value) in &sources.environment {
        let short = name.to_str().and_then(|name| name.strip_prefix("BETCODE_"));
        let Some(short) = short else {
            continue;
        };
        // Other programs have variables of that prefix as well: only ours are taken.
        if let Some(parameter) = find(&short.to_lowercase()) {
            let origin = Origin::Environment(format!("BETCODE_{short}"));
            let value = as_text(value, parameter.name, &origin)?;
            values.insert(parameter.name, (value, origin));
        }
    }
    for (name, value) in &sources.flags {
        let origin = Origin::Flag(format!("--{}", name.replace('_', "-")));
        let parameter = find(name).ok_or_else(|| SettingsError::Unknown {
            origin: origin.clone(),
            name: name.clone(),
        })?;
        values.insert(parameter.name, (value.clone(), origin));
    }
    for (name, (value, origin)) in &values {
        if let Some(parameter) = find(name) {
            check(parameter, value, origin)?;
        }
    }
    follow_from_others(&mut values)?;
    let settings = settings(&values)?;
    together(&settings)?;
    let values = PARAMETERS
        .iter()
        .map(|parameter| {
            let (value, origin) = value_of(parameter, &values);
            (parameter, value, origin)
        })
        .collect();
    Ok(Loaded { settings, values })
}

fn as_text(value: &OsStr, name: &'static str, origin: &Origin) -> Result<String, SettingsError> {
    let not_text = || SettingsError::NotText {
        origin: origin.clone(),
        name,
        value: value.to_owned(),
    };
    value.to_str().map(str::to_owned).ok_or_else(not_text)
}

fn find(name: &str) -> Option<&'static Parameter> {
    PARAMETERS.iter().find(|parameter| parameter.name == name)
}

fn value_of(parameter: &'static Parameter, values: &Values) -> (String, Origin) {
    let default = || (parameter.default.to_owned(), Origin::Default);
    values.get(parameter.name).cloned().unwrap_or_else(default)
}

fn from_file(path: &Path, values: &mut Values) -> Result<(), SettingsError> {
    let wrong = |why: String| SettingsError::File {
        path: path.to_owned(),
        why,
    };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let object: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    for (name, value) in object {
        let origin = Origin::File(path.to_owned());
        let Some(parameter) = find(&name) else {
            return Err(SettingsError::Unknown { origin, name });
        };
        let value = match value {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        values.insert(parameter.name, (value, origin));
    }
    Ok(())
}

fn check(parameter: &Parameter, value: &str, origin: &Origin) -> Result<(), SettingsError> {
    let (fits, takes) = match parameter.kind {
        Kind::Number { min, max } => (
            value
                .parse::<u64>()
                .is_ok_and(|number| (min..=max).contains(&number)),
            format!("a whole number from {min} to {max}"),
        ),
        Kind::Flag => (
            matches!(value, "true" | "false"),
            "true or false".to_owned(),
        ),
        Kind::Path => (!value.is_empty(), "a path".to_owned()),
        Kind::Address => (
            value.is_empty() || value.parse::<SocketAddr>().is_ok(),
            "an address and port, such as 127.0.0.1:50051".to_owned(),
        ),
        Kind::Choice(choices) => (choices.contains(&value), choices.join(" or ")),
        Kind::Text => (true, String::new()),
    };
    if fits {
        return Ok(());
    }
    Err(SettingsError::Value {
        origin: origin.clone(),
        name: parameter.name,
        value: value.to_owned(),
        takes,
    })
}

/// Defaults that follow from other values or from where we are.
fn follow_from_others(values: &mut Values) -> Result<(), SettingsError> {
    if !values.contains_key("db") {
        let home = directories::ProjectDirs::from("", "", "betcode").ok_or_else(|| {
            SettingsError::Together("there is no home directory for the store; set db".to_owned())
        })?;
        let path = home.data_dir().join("history.db");
        let path = as_text(path.as_os_str(), "db", &Origin::Default)?;
        values.insert("db", (path, Origin::Default));
    }
    // One daemon for a store, by whichever link it is named.
    let mut db = PathBuf::new();
    if let Some((path, origin)) = values.get_mut("db") {
        db = resolve_links(Path::new(path));
        *path = as_text(db.as_os_str(), "db", origin)?;
    }
    for (name, path) in [
        ("socket", socket_beside(&db)),
        ("relay_folder", folder_beside(&db).join("relay")),
    ] {
        let path = as_text(path.as_os_str(), name, &Origin::Default)?;
        values.entry(name).or_insert((path, Origin::Default));
    }
    Ok(())
}

/// The socket of a store's daemon: in a directory of its own beside the store.
#[must_use]
pub fn socket_beside(db: &Path) -> PathBuf {
    folder_beside(db).join("grpc.sock")
}

/// The directory of what a store's daemon has besides the store.
fn folder_beside(db: &Path) -> PathBuf {
    let mut folder = db.as_os_str().to_owned();
    folder.push("-daemon");
    PathBuf::from(folder)
}

fn settings(values: &Values) -> Result<Settings, SettingsError> {
    let text = |name: &str| {
        find(name)
            .map(|p| value_of(p, values).0)
            .unwrap_or_default()
    };
    // Numbers and addresses were checked; defaults are right, which a test holds.
    let number = |name: &str| text(name).parse::<u64>().unwrap_or_default();
    let size = |name: &str| usize::try_from(number(name)).unwrap_or(usize::MAX);
    let signed = |name: &str| i64::try_from(number(name)).unwrap_or(i64::MAX);
    let address = |name: &str| text(name).parse::<SocketAddr>().ok();
    let path = |name: &str| PathBuf::from(text(name));
    let flag = |name: &str| text(name) == "true";
    let words = |name: &str| {
        let list = text(name);
        serde_json::from_str::<Vec<String>>(&list).map_err(|_| {
            SettingsError::Together(format!(
                r#"{name} is {list:?}, and takes a JSON list of texts, such as ["--verbose"]"#
            ))
        })
    };
    Ok(Settings {
        db: path("db"),
        socket: path("socket"),
        tcp_listen: address("tcp_listen"),
        tls_listen: address("tls_listen"),
        tls_cert: path("tls_cert"),
        tls_key: path("tls_key"),
        tls_client_ca: path("tls_client_ca"),
        max_connection_age_ms: number("max_connection_age_ms"),
        prometheus_listen: address("prometheus_listen"),
        relay: flag("relay"),
        relay_address: text("relay_address"),
        relay_folder: path("relay_folder"),
        durability: match text("durability").as_str() {
            "normal" => Durability::Normal,
            _ => Durability::Full,
        },
        max_payload_bytes: size("max_payload_bytes"),
        max_db_bytes: number("max_db_bytes"),
        max_session_bytes: number("max_session_bytes"),
        max_readers: u32::try_from(number("max_readers")).unwrap_or(u32::MAX),
        max_queue_requests: size("max_queue_requests"),
        max_queue_bytes: size("max_queue_bytes"),
        max_append_wait_ms: number("max_append_wait_ms"),
        max_connections: size("max_connections"),
        max_clients: number("max_clients"),
        max_sessions: number("max_sessions"),
        max_followers: number("max_followers"),
        max_in_flight_bytes: number("max_in_flight_bytes"),
        max_client_in_flight_bytes: size("max_client_in_flight_bytes"),
        max_follower_buffer_bytes: size("max_follower_buffer_bytes"),
        max_memory_bytes: number("max_memory_bytes"),
        max_subprocesses: number("max_subprocesses"),
        agent_command: text("agent_command"),
        agent_arguments: words("agent_arguments")?,
        agent_idle_ms: number("agent_idle_ms"),
        agent_request_wait_ms: number("agent_request_wait_ms"),
        max_drain_ms: number("max_drain_ms"),
        health_interval_ms: number("health_interval_ms"),
        compaction: flag("compaction"),
        compaction_interval_ms: number("compaction_interval_ms"),
        compaction_cpu_percent: number("compaction_cpu_percent"),
        quick_idle_ms: signed("quick_idle_ms"),
        deep_idle_ms: signed("deep_idle_ms"),
        log_filter: text("log_filter"),
        log_json: flag("log_json"),
    })
}

/// What single bounds do not say.
fn together(settings: &Settings) -> Result<(), SettingsError> {
    let refuse = |why: String| Err(SettingsError::Together(why));
    for (name, address) in [
        ("tcp_listen", settings.tcp_listen),
        ("prometheus_listen", settings.prometheus_listen),
    ] {
        if let Some(address) = address.filter(|address| !address.ip().is_loopback()) {
            let instead = match name {
                "tcp_listen" => ", or tls_listen",
                _ => "",
            };
            return refuse(format!(
                "{name} is {address}, beyond this machine, and has no authentication: use a \
                 loopback address{instead}"
            ));
        }
    }
    let files = [
        &settings.tls_cert,
        &settings.tls_key,
        &settings.tls_client_ca,
    ];
    if settings.tls_listen.is_some() && files.iter().any(|file| file.as_os_str().is_empty()) {
        return refuse("tls_listen needs tls_cert, tls_key and tls_client_ca".to_owned());
    }
    let agent = &settings.agent_command;
    if agent.contains('/') && !agent.starts_with('/') {
        return refuse(format!(
            "agent_command is {agent:?}, which is another file in each directory where an agent works: \
             write the whole path, or a name that is on the PATH"
        ));
    }
    let address = &settings.relay_address;
    let port = address
        .rsplit_once(':')
        .map(|(_, port)| port.parse::<u16>());
    if !address.is_empty() && !matches!(port, Some(Ok(_))) {
        return refuse(format!(
            "relay_address is {address:?}: write host and port, such as relay.example.org:7443"
        ));
    }
    let planned = settings.planned_memory_bytes();
    if planned > settings.max_memory_bytes {
        return refuse(format!(
            "{} sessions, {} clients and {} agents need {planned} bytes by the capacity plan, and \
             max_memory_bytes is {}: lower max_sessions, max_clients or max_subprocesses, or raise it",
            settings.max_sessions,
            settings.max_clients,
            settings.max_subprocesses,
            settings.max_memory_bytes
        ));
    }
    if settings.max_clients > settings.max_connections as u64 {
        return refuse("max_clients is above max_connections".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
