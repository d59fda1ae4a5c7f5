//! Open files: each tunnel and each client is one.

use crate::limits;
use crate::settings::Settings;

/// Lowers tunnels and clients to what `files` allow, clients first: a relay that ran out
/// of files could neither refuse anybody nor write its buffer. Returns what an operator has to know, if it lowered any.
pub fn lower_to_open_files(settings: &mut Settings, files: Option<u64>) -> Option<String> {
    let files = usize::try_from(files?).unwrap_or(usize::MAX);
    let connections = files.saturating_sub(limits::FILES_RESERVED).max(2);
    let (tunnels, clients) = (settings.tunnels_max, settings.clients_max);
    let wanted = tunnels.saturating_add(clients);
    if wanted <= connections {
        return None;
    }
    settings.tunnels_max = tunnels.min(connections - 1);
    settings.clients_max = clients.min(connections - settings.tunnels_max);
    Some(format!(
        "this process may open {files} files, and tunnels_max {tunnels} and clients_max {clients} \
         need {}: {} tunnels and {} clients are let in; raise the hard limit of open files \
         (LimitNOFILE= of the unit, ulimit -Hn), or lower the two",
        wanted + limits::FILES_RESERVED,
        settings.tunnels_max,
        settings.clients_max,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitted(tunnels: usize, clients: usize, files: Option<u64>) -> (usize, usize, bool) {
        let mut settings = Settings {
            tunnels_max: tunnels,
            clients_max: clients,
            ..Settings::default()
        };
        let lowered = lower_to_open_files(&mut settings, files).is_some();
        (settings.tunnels_max, settings.clients_max, lowered)
    }

    #[test]
    fn clients_give_way_first_and_nobody_is_lowered_without_a_word() {
        let beside = limits::FILES_RESERVED as u64;
        assert_eq!(fitted(10, 20, Some(30 + beside)), (10, 20, false));
        assert_eq!(fitted(10, 20, Some(29 + beside)), (10, 19, true));
        assert_eq!(fitted(10, 20, Some(5 + beside)), (4, 1, true));
        assert_eq!(fitted(10, 20, Some(0)), (1, 1, true));
        assert_eq!(fitted(10, 20, None), (10, 20, false));
    }
}
