//! Codes with which machines enrol.

use betcode_relay::auth::{Enrolments, StateError, StateFolder};
use betcode_relay::unix_now_s;
use betcode_schema_tunnel::MachineId;
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::{Error, far_ahead, load_revoked, read_pem};

/// Makes a code for a machine.
pub(super) fn issue(state: &StateFolder, machine: &MachineId) -> Result<String, Error> {
    let authority: CertificateDer<'_> = read_pem(state.authority_certificate())?;
    // Refused here already, where somebody is who can set the clock right.
    let revoked = load_revoked(state)?;
    revoked
        .issue_machine_s(machine, unix_now_s())
        .map_err(|until_s| far_ahead(&format!("certificates of {machine}"), until_s, state))?;
    let path = state.enrolments();
    let issued = Enrolments::at(&path).issue(machine, &authority, unix_now_s());
    Ok(issued.map_err(|source| StateError::Io { path, source })?)
}
