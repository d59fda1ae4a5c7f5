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
//! 1. Dial, with TLS that proves both sides, and greet (`dial`).
//! 2. Serve HTTP/2 on the connection: the relay is its client, the daemon's own services answer (`serve`).
//! 3. When the relay says *go away* because it restarts, dial again after a moment and let the calls under way
//!    finish on the old connection; while it restarts, pauses stay short. When it says so because a newer tunnel of
//!    the same machine took over, leave the machine to that one for a while.
//! 4. When the connection breaks, dial again after a random pause (`redial`). Pauses grow until a tunnel has
//!    lasted as long as the longest of them.
//!
//! `hold` is the task that does this. A call passes `serve`, `idempotency` if it may come more than once (its answer
//! is a `buffered_body`), `users`, and the gate of all requests. `enrol`, `folder` and `tls` are about credentials;
//! `attach` builds the tunnel of a daemon from its settings; `figures` is what is measured.

mod attach;
mod buffered_body;
mod dial;
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
