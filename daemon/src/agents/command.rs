//! How an agent is started: its executable, its arguments, where it works. No process yet.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use tonic::Status;

use super::refusal::Refusal;
use crate::limits::{ALLOWED_TOOLS_MAX, TOOL_NAME_BYTES_MAX};
use crate::status::invalid;
use crate::translate::PLAN_MODE;

/// What a client may say about the agent, and what the session knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Where it works.
    pub(crate) working_directory: PathBuf,
    /// The model; empty for the agent's own choice.
    pub(crate) model: String,
    /// It plans only.
    pub(crate) plan_mode: bool,
    /// Tools that it may use without asking.
    pub(crate) allowed_tools: Vec<String>,
}

/// What a running agent says of itself: it may name its model otherwise than it was asked for, and leave
/// plan mode when a plan was approved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reported {
    /// Its model; empty until it names one.
    pub(crate) model: String,
    /// Whether it plans only; `None` until it says.
    pub(crate) plan_mode: Option<bool>,
}

impl Options {
    /// Whether a client with these options asks for another agent than one that was started with
    /// `running` and says `reported` of itself. Plan mode counts on and off, because a client has no
    /// other way to ask for either. A client that names neither a model nor tools takes those that
    /// there are.
    pub(crate) fn ask_for_other_than(&self, running: &Self, reported: &Reported) -> bool {
        let named = !self.model.is_empty();
        let names_something = named || self.plan_mode || !self.allowed_tools.is_empty();
        let same_mode =
            self.plan_mode == running.plan_mode || Some(self.plan_mode) == reported.plan_mode;
        let other_tools = names_something && self.tools() != running.tools();
        let other_model = named && self.model != running.model && self.model != reported.model;
        !same_mode || other_tools || other_model
    }

    fn tools(&self) -> BTreeSet<&str> {
        self.allowed_tools.iter().map(String::as_str).collect()
    }

    /// Refuses what would be taken for something else on a command line.
    ///
    /// # Errors
    /// INVALID_ARGUMENT.
    pub(crate) fn check(&self) -> Result<(), Status> {
        if !is_word(&self.model) && !self.model.is_empty() {
            return Err(invalid(
                "model",
                "it must not begin with - or have control characters",
            ));
        }
        if self.allowed_tools.len() > ALLOWED_TOOLS_MAX {
            let why = format!(
                "{} tools, at most {ALLOWED_TOOLS_MAX}",
                self.allowed_tools.len()
            );
            return Err(invalid("allowed_tools", why));
        }
        match self.allowed_tools.iter().find(|tool| !is_word(tool)) {
            Some(tool) => Err(invalid("allowed_tools", format!("{tool:?} names no tool"))),
            None => Ok(()),
        }
    }
}

fn is_word(text: &str) -> bool {
    let bytes = 1..=TOOL_NAME_BYTES_MAX;
    bytes.contains(&text.len()) && !text.starts_with('-') && !text.contains(char::is_control)
}

/// The arguments: those of the settings, then those of the protocol.
pub(crate) fn arguments(
    settings: &[String],
    options: &Options,
    agent_session_id: &str,
) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = settings.iter().map(OsString::from).collect();
    let mut add = |words: &[&str]| arguments.extend(words.iter().map(OsString::from));
    add(&[
        "-p",
        "--output-format",
        "stream-json",
        "--input-format",
        "stream-json",
    ]);
    add(&[
        "--verbose",
        "--include-partial-messages",
        "--permission-prompt-tool",
        "stdio",
    ]);
    // What an agent printed is input: it does not become an option.
    if is_word(agent_session_id) {
        add(&["--resume", agent_session_id]);
    }
    if !options.model.is_empty() {
        add(&["--model", &options.model]);
    }
    if options.plan_mode {
        add(&["--permission-mode", PLAN_MODE]);
    }
    if !options.allowed_tools.is_empty() {
        // Last: it takes every word that follows.
        add(&["--allowedTools"]);
        arguments.extend(options.allowed_tools.iter().map(OsString::from));
    }
    arguments
}

/// The executable that a command names: a path, or a name looked for as a shell would.
///
/// # Errors
/// What was looked for, and where.
pub(crate) fn executable(command: &str) -> Result<PathBuf, Refusal> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = match command.contains('/') {
        true => Some(PathBuf::from(command)).filter(|path| is_executable(path)),
        false => std::env::split_paths(&path)
            .map(|folder| folder.join(command))
            .find(|path| is_executable(path)),
    };
    found.ok_or_else(|| {
        let message = match what_is_wrong(command, &path) {
            Some((there, why)) => format!(
                "the agent {command:?} cannot be run: {} {why}; put that right, or set agent_command to where it is",
                there.display()
            ),
            None => {
                let place = match command.contains('/') {
                    true => "there",
                    false => "on the daemon's PATH",
                };
                format!("the agent {command:?} is not {place}; install it, or set agent_command to where it is")
            }
        };
        Refusal::new("AGENT_MISSING", message).with("agent_command", command)
    })
}

/// What is there by the name of a command that cannot be run, and why it cannot.
fn what_is_wrong(command: &str, search: &OsStr) -> Option<(PathBuf, &'static str)> {
    let why = |path: &Path| match std::fs::metadata(path) {
        Ok(file) if file.is_dir() => Some("is a directory"),
        Ok(file) if file.is_file() => Some("is not executable (chmod +x)"),
        Ok(_) => Some("is no file"),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Some("cannot be looked at: permission denied")
        }
        Err(_) => None,
    };
    if command.contains('/') {
        let path = PathBuf::from(command);
        return why(&path).map(|why| (path, why));
    }
    // Directories by that name are usual, and nobody means them.
    std::env::split_paths(search)
        .map(|folder| folder.join(command))
        .filter(|path| path.is_file())
        .find_map(|path| why(&path).map(|why| (path, why)))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path)
        .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// Checks a working directory.
///
/// # Errors
/// It is not absolute, not there, or no directory.
pub(crate) fn working_directory(path: &Path) -> Result<(), String> {
    if !path.is_absolute() {
        return Err(format!(
            "{path:?}, which is not absolute: give the whole path"
        ));
    }
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(format!("{path:?}, which is no directory")),
        Err(error) => Err(format!("{path:?}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(options: &Options, id: &str) -> String {
        let words = arguments(&["--extra".to_owned()], options, id);
        let words: Vec<_> = words.iter().map(|word| word.to_str().unwrap()).collect();
        words.join(" ")
    }

    #[test]
    fn the_command_line_is_the_one_that_the_agent_documents() {
        let base = "--extra -p --output-format stream-json --input-format stream-json --verbose \
                    --include-partial-messages --permission-prompt-tool stdio";
        assert_eq!(words(&Options::default(), ""), base);
        let options = Options {
            model: "m".to_owned(),
            plan_mode: true,
            allowed_tools: vec!["Read".to_owned(), "Bash(ls:*)".to_owned()],
            ..Options::default()
        };
        let more = "--resume a-1 --model m --permission-mode plan --allowedTools Read Bash(ls:*)";
        assert_eq!(words(&options, "a-1"), format!("{base} {more}"));
    }

    #[test]
    fn who_asks_for_what_runs_by_another_name_or_in_another_order_asks_for_no_other() {
        let options = |model: &str, tools: &[&str]| Options {
            model: model.to_owned(),
            allowed_tools: tools.iter().map(|&tool| tool.to_owned()).collect(),
            ..Options::default()
        };
        let running = options("short", &["Read", "Edit"]);
        for (model, tools, other) in [
            ("", &["Edit", "Read", "Edit"][..], false),
            ("short", &["Edit", "Read"], false),
            ("short-2", &["Edit", "Read"], false),
            ("long", &["Edit", "Read"], true),
            ("short", &["Edit"], true),
        ] {
            let asked = options(model, tools);
            let reported = Reported {
                model: "short-2".to_owned(),
                plan_mode: None,
            };
            let is_other = asked.ask_for_other_than(&running, &reported);
            assert_eq!(is_other, other, "{asked:?}");
        }
    }

    #[test]
    fn plan_mode_is_asked_for_on_and_off_and_both_are_had_once_a_plan_was_approved() {
        let options = |plan_mode| Options {
            plan_mode,
            ..Options::default()
        };
        let reported = |plan_mode| Reported {
            plan_mode,
            ..Reported::default()
        };
        for (started, reports, asks, other) in [
            (true, None, true, false),
            (true, None, false, true),
            (false, None, true, true),
            (true, Some(true), false, true),
            (true, Some(false), false, false),
            // A client that began in plan mode and approved the plan wants it carried out.
            (true, Some(false), true, false),
            (false, Some(true), true, false),
        ] {
            let is_other = options(asks).ask_for_other_than(&options(started), &reported(reports));
            assert_eq!(is_other, other, "{started} {reports:?} {asks}");
        }
    }

    #[test]
    fn nothing_that_clients_or_agents_say_becomes_an_option() {
        assert!(!words(&Options::default(), "--evil").contains("evil"));
        for (model, tool) in [("--x", "Read"), ("m", "--x"), ("m", ""), ("a\nb", "Read")] {
            let options = Options {
                model: model.to_owned(),
                allowed_tools: vec![tool.to_owned()],
                ..Options::default()
            };
            assert!(options.check().is_err(), "{model} {tool}");
        }
    }

    #[test]
    fn an_executable_is_found_as_a_shell_finds_it() {
        assert!(executable("sh").unwrap().is_absolute());
        assert_eq!(executable("/bin/sh").unwrap(), Path::new("/bin/sh"));
        for missing in ["/nowhere/claude", "no-such-agent", "/etc/passwd", "/"] {
            assert_eq!(executable(missing).unwrap_err().code, "AGENT_MISSING");
        }
    }

    #[test]
    fn what_is_there_and_cannot_be_run_is_not_called_missing() {
        for (there, why) in [
            ("/etc/passwd", "not executable"),
            ("/", "a directory"),
            ("/dev/null", "no file"),
        ] {
            let message = executable(there).unwrap_err().message;
            assert!(
                message.contains(why) && message.contains(there),
                "{message}"
            );
        }
        let message = executable("/nowhere/claude").unwrap_err().message;
        assert!(message.contains("is not there; install it"), "{message}");
    }

    #[test]
    fn a_working_directory_is_absolute_and_there() {
        assert!(working_directory(Path::new("/")).is_ok());
        for wrong in ["relative", "/no/such/place", "/etc/passwd", ""] {
            assert!(working_directory(Path::new(wrong)).is_err(), "{wrong}");
        }
    }
}
