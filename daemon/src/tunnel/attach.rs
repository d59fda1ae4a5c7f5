//! The daemon's own services behind the tunnel.

use std::sync::Arc;

use tokio::sync::watch;
use tonic::service::Routes;
use tower::Layer;

use super::users::Users;
use super::{EnrolmentFolder, FolderError, Tunnel, TunnelOptions, TunnelState};
use crate::core::Core;
use crate::observe::add;
use crate::transport::GateLayer;

/// Holds the tunnel that the settings ask for. If there can be none, `state` gets the reason. That is no error:
/// this machine's own clients are served all the same.
pub(crate) fn attach(
    core: &Arc<Core>,
    routes: &Routes,
    state: &watch::Sender<TunnelState>,
) -> Option<Tunnel> {
    let settings = &core.settings;
    if !settings.relay {
        return None;
    }
    let folder = EnrolmentFolder::at(&settings.relay_folder);
    let options = match folder.tunnel_options(&settings.relay_address) {
        Ok(options) => TunnelOptions {
            figures: Arc::clone(&core.metrics.tunnel),
            ..options
        },
        // Nobody has asked for a relay.
        Err(FolderError::Absent(_)) if settings.relay_address.is_empty() => return None,
        Err(error) => {
            tracing::error!(%error, "no tunnel");
            let why = error.to_string();
            state.send_replace(TunnelState::Unusable { why });
            return None;
        }
    };
    let gate = GateLayer(Arc::clone(core)).layer(routes.clone().prepare());
    let tunnel = Tunnel::hold(options, Users::before(Arc::clone(core), gate));
    tokio::spawn(forward_state(
        Arc::clone(core),
        tunnel.state(),
        state.clone(),
    ));
    Some(tunnel)
}

/// Gives an open tunnel the credentials that the folder has now, for the next time it dials.
pub(crate) fn renew(core: &Core, tunnel: &Tunnel) {
    let settings = &core.settings;
    let folder = EnrolmentFolder::at(&settings.relay_folder);
    match folder.tunnel_options(&settings.relay_address) {
        Ok(options) => {
            if let Some(tls) = options.tls {
                tunnel.set_tls(tls);
            }
        }
        Err(error) => tracing::error!(%error, "the tunnel's credentials were not read again"),
    }
}

/// Forwards the tunnel's state to those who watch the daemon's, and counts how often it opened.
async fn forward_state(
    core: Arc<Core>,
    mut tunnel: watch::Receiver<TunnelState>,
    state: watch::Sender<TunnelState>,
) {
    loop {
        let now = tunnel.borrow_and_update().clone();
        if matches!(now, TunnelState::Open { .. }) {
            add(&core.metrics.tunnels_opened, 1);
        }
        state.send_replace(now);
        if tunnel.changed().await.is_err() {
            return;
        }
    }
}
