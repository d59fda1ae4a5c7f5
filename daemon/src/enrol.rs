//! `betcode-daemon enrol`: a one-time code for a key and certificates on disk.

use std::io::{Read, Write};

use betcode_daemon::limits::ENROLMENT_CODE_BYTES_MAX;
use betcode_daemon::settings::Settings;
use betcode_daemon::tunnel::{self, Enrolment, EnrolmentFolder};

use crate::cli::Enrol;

/// Enrols this machine and keeps what that brings.
pub(crate) fn enrol(settings: &Settings, asked: Enrol) -> Result<(), String> {
    let address = settings.relay_address.clone();
    let Some((host, _)) = address.rsplit_once(':') else {
        return Err("enrol needs --relay-address HOST:PORT".to_owned());
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let about = Enrolment {
        machine: asked
            .machine
            .parse()
            .map_err(|e| format!("--machine: {e}"))?,
        relay_name: asked.relay_name.unwrap_or_else(|| host.to_owned()),
        relay_address: address,
    };
    let code = match asked.code.as_str() {
        "-" => code_from_input().map_err(|error| format!("read the code: {error}"))?,
        _ => asked.code,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("start: {error}"))?;
    let enrolling = tunnel::enrol(
        &about.relay_address,
        &about.relay_name,
        &about.machine,
        &code,
    );
    let enrolled = runtime
        .block_on(enrolling)
        .map_err(|error| error.to_string())?;
    EnrolmentFolder::at(&settings.relay_folder)
        .save(&about, &enrolled)
        .map_err(|error| error.to_string())?;
    let printed = writeln!(
        std::io::stdout(),
        "{} is enrolled at {}; key and certificates are in {}. The daemon takes them at its next \
         start, or on SIGHUP.",
        about.machine,
        about.relay_address,
        settings.relay_folder.display()
    );
    // A reader that went away is no error.
    let _ = printed;
    Ok(())
}

fn code_from_input() -> std::io::Result<String> {
    let mut text = String::new();
    std::io::stdin()
        .take(ENROLMENT_CODE_BYTES_MAX)
        .read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}
