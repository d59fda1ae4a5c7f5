//! The daemon's side of the tunnel: it dials the relay and serves whatever comes through.
//!
//! ```no_run
//! # async fn example(routes: tonic::service::Routes) -> Result<(), Box<dyn std::error::Error>> {
//! use betcode_daemon::tunnel::{Tunnel, TunnelOptions};
//!
//! let options = TunnelOptions::new("relay.example.org:7443", "my-laptop".parse()?);
//! let tunnel = Tunnel::hold(options, routes);
//! // … the daemon serves its socket meanwhile …
//! tunnel.stop(std::time::Duration::from_secs(10)).await;
//! # Ok(())
//! # }
//! ```
//!
//! 1. Dial, with TLS that proves both sides, and greet.
//! 2. Serve HTTP/2 on the connection: the relay is its client, the daemon's own services answer.
//! 3. When the relay says *go away* because it restarts, dial anew after a moment and let calls under
//!    way finish on the old connection; while it restarts, pauses stay short. When a newer tunnel of the same machine took over, leave it
//!    the machine for a while.
//! 4. When the connection breaks, dial again after a jittered pause. It grows until a tunnel has
//!    lasted as long as the longest one.

mod attach;
mod buffered_body;
mod enrol;
mod figures;
mod folder;
mod hold;
mod idempotency;
mod options;
mod redial;
mod serve;
mod tls;
mod users;

pub(crate) use attach::{attach, renew};
pub use betcode_service::backoff::Backoff;
pub use enrol::{Enrolled, EnrolmentError, enrol};
pub use figures::TunnelFigures;
pub use folder::{Enrolment, EnrolmentFolder, FolderError};
pub use hold::{Tunnel, TunnelState};
pub use options::TunnelOptions;
pub use tls::{TunnelTls, TunnelTlsError};
