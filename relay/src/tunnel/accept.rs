//! The greeting of a new tunnel, from the first byte to its entry in the table.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use betcode_schema_tunnel::metadata::GoAway;
use betcode_schema_tunnel::{
    GreetingError, Hello, MachineId, PROTOCOL, Refusal, Welcome, read_greeting, write_greeting,
};
use betcode_service::sync;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

use super::open::{Keepalive, MachineSlot, TunnelInfo};
use super::{Registered, Table, Tunnel};
use crate::auth::{MachineCertificate, Revocations};
use crate::buffer::Deliverer;
use crate::limits;
use crate::metrics::Metrics;
use crate::registry::{Registry, RegistryError};

/// Who is at the other end of a connection, as the transport has proved it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// A certificate of this relay's authority names this machine.
    Machine(MachineCertificate),
    /// Nobody that may have a tunnel, and why.
    Nobody(&'static str),
    /// Nothing is proved: plain loopback, where the operator has allowed that.
    AnyOnLoopback,
}

/// Why a connection did not become a tunnel.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The greeting failed.
    #[error(transparent)]
    Greeting(#[from] GreetingError),
    /// The greeting took too long.
    #[error("no greeting within {} ms", limits::GREETING_MS_MAX)]
    Slow,
    /// The relay refused.
    #[error("refused ({reason:?}): {message}")]
    Refused {
        /// Why, for programs.
        reason: Refusal,
        /// Why, for people.
        message: String,
    },
    /// HTTP/2 could not be opened.
    #[error("HTTP/2 could not be opened: {0}")]
    Http2(#[from] hyper::Error),
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// A machine's tunnel, claimed for this relay. Released when dropped, so also when the greeting or the
/// opening of the tunnel fails.
struct Claim {
    registry: Arc<dyn Registry>,
    machine: MachineId,
    epoch: u64,
}

impl Claim {
    async fn make(
        registry: &Arc<dyn Registry>,
        machine: &MachineId,
        relay_id: &str,
    ) -> Result<Self, RegistryError> {
        Ok(Self {
            epoch: registry.claim(machine, relay_id).await?,
            registry: registry.clone(),
            machine: machine.clone(),
        })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let (registry, machine, epoch) = (self.registry.clone(), self.machine.clone(), self.epoch);
        // Without a runtime the process is about to end, and the claim with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            if let Err(error) = registry.release(&machine, epoch).await {
                tracing::warn!(%machine, epoch, %error, "claim not released");
            }
        });
    }
}

/// Turns connections into tunnels.
pub struct Acceptor {
    /// Name of this relay.
    pub relay_id: String,
    /// Open tunnels.
    pub table: Arc<Table>,
    /// Which relay holds which machine's tunnel.
    pub registry: Arc<dyn Registry>,
    /// Delivers requests that waited.
    pub deliverer: Arc<Deliverer>,
    /// Certificates that are no longer accepted.
    pub revoked: Arc<RwLock<Revocations>>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// How tunnels are kept alive.
    pub keepalive: Keepalive,
    /// Slots for the machines that have tunnels.
    pub slots: Arc<Semaphore>,
    /// How long a tunnel that has to go may finish its calls.
    pub go_away_grace: Duration,
    /// Whether new tunnels are refused because the relay stops.
    pub draining: AtomicBool,
}

impl Acceptor {
    /// Greets a new connection and opens the tunnel, which is in the table when this returns.
    /// `None` when the daemon only asked which relay this is.
    ///
    /// # Errors
    /// When the greeting fails or is refused; the connection is closed then.
    pub async fn accept<S>(
        self: &Arc<Self>,
        stream: S,
        identity: &Identity,
    ) -> Result<Option<Arc<Tunnel>>, AcceptError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let opened = self.open(stream, identity).await;
        match &opened {
            Ok(None) => {}
            Ok(Some(_)) => self.metrics.tunnel(true),
            Err(_) => self.metrics.tunnel(false),
        }
        opened
    }

    async fn open<S>(
        self: &Arc<Self>,
        mut stream: S,
        identity: &Identity,
    ) -> Result<Option<Arc<Tunnel>>, AcceptError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let in_time = Duration::from_millis(limits::GREETING_MS_MAX);
        let greeted = tokio::time::timeout(in_time, self.greet(&mut stream, identity)).await;
        let (hello, claim, slot) = greeted.map_err(|_| AcceptError::Slow)??;
        let Some(claim) = claim else {
            return Ok(None);
        };
        let epoch = claim.epoch;
        let info = TunnelInfo {
            machine: hello.machine_id,
            instance: hello.instance,
            epoch,
            certificate_issued_s: match identity {
                Identity::Machine(certificate) => Some(certificate.issued_s),
                Identity::Nobody(_) | Identity::AnyOnLoopback => None,
            },
            slot,
        };
        let tunnel = Tunnel::open(stream, info, self.keepalive).await?;
        let grace = self.go_away_grace;
        match self.table.register(&tunnel) {
            Registered::Newest { replaced } => {
                let (machine, instance) = (tunnel.machine(), tunnel.instance());
                tracing::info!(%machine, epoch, instance, "tunnel open");
                tokio::spawn({
                    let (deliverer, tunnel) = (self.deliverer.clone(), tunnel.clone());
                    async move { deliverer.deliver(tunnel).await }
                });
                if let Some(old) = replaced.filter(|old| old.is_open()) {
                    tokio::spawn(async move { old.go_away(GoAway::Replaced, grace).await });
                }
            }
            Registered::Outdated => {
                let tunnel = tunnel.clone();
                tokio::spawn(async move { tunnel.go_away(GoAway::Replaced, grace).await });
            }
        }
        // Checked once more, now that a revocation would find the tunnel: one that came meanwhile did not.
        if self.is_revoked(tunnel.machine(), tunnel.certificate_issued_s()) {
            let tunnel = tunnel.clone();
            tokio::spawn(async move { tunnel.go_away(GoAway::Revoked, Duration::ZERO).await });
        }
        tokio::spawn({
            let (accept, tunnel) = (self.clone(), tunnel.clone());
            async move {
                tunnel.closed().await;
                accept.table.remove(&tunnel);
                drop(claim);
                tunnel.gone().await;
                accept.table.forget(&tunnel);
            }
        });
        Ok(Some(tunnel))
    }

    async fn greet<S>(
        &self,
        stream: &mut S,
        identity: &Identity,
    ) -> Result<(Hello, Option<Claim>, Arc<MachineSlot>), AcceptError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let hello: Hello = read_greeting(stream).await?;
        let slot = match self.permit(&hello, identity) {
            Ok(slot) => slot,
            Err((reason, message)) => {
                let refused = Welcome::Refused {
                    reason,
                    message: message.clone(),
                };
                write_greeting(stream, &refused).await?;
                return Err(AcceptError::Refused { reason, message });
            }
        };
        let claim = match hello.probe {
            true => None,
            false => Some(Claim::make(&self.registry, &hello.machine_id, &self.relay_id).await?),
        };
        let accepted = Welcome::Accepted {
            relay_id: self.relay_id.clone(),
            epoch: claim.as_ref().map_or(0, |claim| claim.epoch),
            routing: self.metrics.routing_now(),
        };
        write_greeting(stream, &accepted).await?;
        Ok((hello, claim, slot))
    }

    fn is_revoked(&self, machine: &MachineId, certificate_issued_s: Option<u64>) -> bool {
        sync::read(&self.revoked).covers_tunnel(machine, certificate_issued_s)
    }

    /// Whether a machine may have a tunnel, and its slot: taken before the greeting is answered, so that no more
    /// machines are accepted at once than there are slots.
    fn permit(
        &self,
        hello: &Hello,
        identity: &Identity,
    ) -> Result<Arc<MachineSlot>, (Refusal, String)> {
        if hello.protocol != PROTOCOL {
            let message = format!(
                "protocol {} is not spoken here, {PROTOCOL} is: update the older side",
                hello.protocol
            );
            return Err((Refusal::Protocol, message));
        }
        let refused = match identity {
            Identity::Machine(proved) if proved.machine != hello.machine_id => {
                Some("the certificate names another machine")
            }
            Identity::Machine(proved) => self
                .is_revoked(&proved.machine, Some(proved.issued_s))
                .then_some("the machine's certificate was revoked"),
            Identity::Nobody(why) => Some(*why),
            Identity::AnyOnLoopback => None,
        };
        if let Some(why) = refused {
            return Err((Refusal::NotPermitted, why.to_owned()));
        }
        if self.draining.load(Ordering::Acquire) {
            return Err((Refusal::Draining, "the relay is stopping".to_owned()));
        }
        // A machine that reconnects keeps its slot.
        if let Some(old) = self.table.newest(&hello.machine_id) {
            return Ok(old.slot());
        }
        match self.slots.clone().try_acquire_owned() {
            Ok(held) => Ok(Arc::new(MachineSlot { _held: held })),
            Err(_) => {
                let message = "the relay holds as many tunnels as it may (tunnels_max)".to_owned();
                Err((Refusal::Full, message))
            }
        }
    }
}
