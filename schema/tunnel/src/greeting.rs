//! The greeting that opens a tunnel: a length of four bytes, big-endian, then JSON.
//!
//! JSON because both sides must be able to read a greeting of a version they do not know, well
//! enough to say so; unknown fields are passed over.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::MachineId;

/// Version of the tunnel's protocol.
pub const PROTOCOL: u32 = 1;

/// Size of a greeting; a longer one is refused before it is read.
pub const GREETING_BYTES_MAX: usize = 16 << 10;

/// What a daemon says first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Protocol that it speaks, see [`PROTOCOL`].
    pub protocol: u32,
    /// Machine that it serves.
    pub machine_id: MachineId,
    /// Chosen anew by each daemon process: tells a reconnect from a second daemon.
    pub instance: String,
    /// The daemon's version, for people.
    pub version: String,
    /// The daemon only asks which relay it reaches; the connection ends after the answer. Relays
    /// come and go, and so a machine's place among them changes.
    #[serde(default)]
    pub probe: bool,
}

/// What the relay answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Welcome {
    /// The tunnel is open: HTTP/2 follows, with the relay as its client.
    Accepted {
        /// The relay's own name.
        relay_id: String,
        /// Number of this tunnel: a later tunnel of the same machine has a higher one. 0 for a
        /// probe.
        epoch: u64,
        /// How long the relay takes to route calls; absent before the first, and of relays that do not
        /// say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        routing: Option<RelayRouting>,
    },
    /// The tunnel is refused, and the connection ends.
    Refused {
        /// Why, for programs.
        reason: Refusal,
        /// Why, for people.
        message: String,
    },
}

/// How long a relay takes to hand a call over to its tunnel, of all calls since it started, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayRouting {
    /// How many there were.
    pub calls: u64,
    /// Half of them were faster.
    pub p50_us: u64,
    /// 95 % of them were faster.
    pub p95_us: u64,
    /// 99 % of them were faster.
    pub p99_us: u64,
}

/// Why a relay refuses a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The certificate names another machine, is revoked, or was never enrolled.
    NotPermitted,
    /// The relay does not speak this protocol.
    Protocol,
    /// The relay holds as many tunnels as it may.
    Full,
    /// The relay is about to stop.
    Draining,
    /// A reason that this version does not know.
    #[serde(other)]
    Other,
}

/// What a machine without a certificate asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolmentRequest {
    /// Machine that it wants to be.
    pub machine_id: MachineId,
    /// The one-time code.
    pub code: String,
    /// Signing request for the machine's own key, PEM.
    pub signing_request: String,
}

/// What the relay answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum EnrolmentAnswer {
    /// The code was good, and is used up.
    Enrolled {
        /// The machine's certificate, PEM.
        certificate: String,
        /// The authority's certificate, PEM.
        authority: String,
    },
    /// The code was not good, or the relay failed.
    Refused {
        /// Why, for people.
        message: String,
    },
}

/// A greeting that could not be exchanged.
#[derive(Debug, thiserror::Error)]
pub enum GreetingError {
    /// The connection broke.
    #[error("the connection broke during the greeting: {0}")]
    Io(#[from] std::io::Error),
    /// Longer than [`GREETING_BYTES_MAX`].
    #[error("a greeting of {bytes} bytes, at most {GREETING_BYTES_MAX}: this is not a tunnel")]
    TooLong {
        /// Its stated length.
        bytes: usize,
    },
    /// Not a greeting.
    #[error("the greeting cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Sends a greeting.
///
/// # Errors
/// When the connection breaks.
pub async fn write_greeting<T: Serialize, S: AsyncWrite + Unpin>(
    stream: &mut S,
    greeting: &T,
) -> Result<(), GreetingError> {
    let text = serde_json::to_vec(greeting)?;
    let length = u32::try_from(text.len())
        .ok()
        .filter(|&bytes| bytes as usize <= GREETING_BYTES_MAX);
    let Some(length) = length else {
        return Err(GreetingError::TooLong { bytes: text.len() });
    };
    let mut frame = Vec::with_capacity(4 + text.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&text);
    stream.write_all(&frame).await?;
    Ok(stream.flush().await?)
}

/// Receives a greeting, and not a byte more: what follows is HTTP/2's.
///
/// # Errors
/// When the connection breaks, or what comes is not a greeting.
pub async fn read_greeting<T: DeserializeOwned, S: AsyncRead + Unpin>(
    stream: &mut S,
) -> Result<T, GreetingError> {
    let bytes = stream.read_u32().await? as usize;
    if bytes > GREETING_BYTES_MAX {
        return Err(GreetingError::TooLong { bytes });
    }
    let mut text = vec![0; bytes];
    stream.read_exact(&mut text).await?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_greeting_comes_as_it_was_sent_and_takes_nothing_behind_it() {
        let hello = Hello {
            protocol: PROTOCOL,
            machine_id: "m-1".parse().unwrap(),
            instance: "i".into(),
            version: "0".into(),
            probe: false,
        };
        let mut wire = Vec::new();
        write_greeting(&mut wire, &hello).await.unwrap();
        wire.extend_from_slice(b"PRI * HTTP/2.0");
        let mut rest = wire.as_slice();
        assert_eq!(read_greeting::<Hello, _>(&mut rest).await.unwrap(), hello);
        assert_eq!(rest, b"PRI * HTTP/2.0");
    }

    #[tokio::test]
    async fn what_is_not_a_greeting_is_refused_before_it_is_read() {
        let mut http = b"GET / HTTP/1.1\r\n".as_slice();
        let refused = read_greeting::<Hello, _>(&mut http).await;
        assert!(matches!(refused, Err(GreetingError::TooLong { .. })));
        let mut torn = [0, 0, 0, 9, b'{'].as_slice();
        let refused = read_greeting::<Hello, _>(&mut torn).await;
        assert!(matches!(refused, Err(GreetingError::Io(_))));
    }

    #[test]
    fn a_relay_that_does_not_say_how_fast_it_routes_is_understood() {
        let text = r#"{"answer":"accepted","relay_id":"r","epoch":3}"#;
        let read: Welcome = serde_json::from_str(text).unwrap();
        let (relay_id, epoch, routing) = ("r".into(), 3, None);
        let welcome = Welcome::Accepted {
            relay_id,
            epoch,
            routing,
        };
        assert_eq!(serde_json::to_string(&welcome).unwrap(), text);
        assert_eq!(read, welcome);
    }

    #[test]
    fn a_refusal_of_a_later_version_is_still_a_refusal() {
        let text = r#"{"answer":"refused","reason":"full_moon","message":"wait","more":1}"#;
        let read: Welcome = serde_json::from_str(text).unwrap();
        let reason = Refusal::Other;
        let message = "wait".into();
        assert_eq!(read, Welcome::Refused { reason, message });
    }
}
