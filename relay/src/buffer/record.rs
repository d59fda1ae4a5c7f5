//! Requests and outcomes as bytes: a length of four bytes, big-endian, a head of JSON, the body.

use betcode_schema_tunnel::MachineId;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tonic::Code;
use xxhash_rust::xxh3::xxh3_128;

use super::{BufferError, PendingRequest, TokenRef};

#[derive(Serialize, Deserialize)]
struct Head {
    machine: MachineId,
    key: String,
    priority: u8,
    user: String,
    /// Records of earlier builds have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<TokenRef>,
    path: String,
    metadata: Vec<(String, String)>,
}

/// A request as the store keeps it.
pub(super) fn encode(request: &PendingRequest) -> Result<Bytes, BufferError> {
    let head = Head {
        machine: request.machine.clone(),
        key: request.key.clone(),
        priority: request.priority,
        user: request.user.clone(),
        token: request.token.clone(),
        path: request.path.clone(),
        metadata: request.metadata.clone(),
    };
    let head = serde_json::to_vec(&head).map_err(failed)?;
    let length = u32::try_from(head.len()).map_err(failed)?;
    let mut record = Vec::with_capacity(4 + head.len() + request.body.len());
    record.extend_from_slice(&length.to_be_bytes());
    record.extend_from_slice(&head);
    record.extend_from_slice(&request.body);
    Ok(record.into())
}

/// Reads a request back. Bytes on disk are input: damage is an error.
pub(super) fn decode(mut record: Bytes) -> Result<PendingRequest, BufferError> {
    let length = record
        .split_at_checked(4)
        .and_then(|(length, _)| length.try_into().ok())
        .map_or(usize::MAX, |length| u32::from_be_bytes(length) as usize);
    if record.len() - 4.min(record.len()) < length {
        return Err(damaged("a record is cut short"));
    }
    let head = record.split_to(4 + length);
    let head: Head = serde_json::from_slice(&head[4..]).map_err(damaged)?;
    Ok(PendingRequest {
        machine: head.machine,
        key: head.key,
        priority: head.priority,
        user: head.user,
        token: head.token,
        path: head.path,
        metadata: head.metadata,
        body: record,
    })
}

/// What makes two requests of one key the same: who asks what, not how often or how urgently.
pub(super) fn digest(request: &PendingRequest) -> u64 {
    let mut bytes = Vec::with_capacity(request.body.len() + request.path.len() + 64);
    for part in [request.user.as_bytes(), request.path.as_bytes()] {
        bytes.extend_from_slice(part);
        bytes.push(0);
    }
    bytes.extend_from_slice(&request.body);
    xxh3_128(&bytes) as u64
}

/// The outcome of a request, as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub(super) machine: MachineId,
    pub(super) key: String,
    pub(super) order: u64,
    pub(super) digest: u64,
    pub(super) code: i32,
    pub(super) settled_ms: i64,
}

impl Outcome {
    pub(super) fn code(&self) -> Code {
        Code::from_i32(self.code)
    }
}

pub(super) fn damaged(what: impl std::fmt::Display) -> BufferError {
    BufferError::Damaged {
        why: what.to_string(),
    }
}

pub(super) fn failed(what: impl std::fmt::Display) -> BufferError {
    BufferError::Store {
        why: what.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> PendingRequest {
        PendingRequest {
            machine: "m".parse().unwrap(),
            key: "k".into(),
            priority: 3,
            user: "ann".into(),
            token: Some(TokenRef {
                id: "t".into(),
                issued_s: 7,
            }),
            path: "/a.B/C".into(),
            metadata: vec![("x-a".into(), "1".into())],
            body: Bytes::from_static(b"\0\0\0\0\x01z"),
        }
    }

    #[test]
    fn a_request_comes_back_as_it_was() {
        let record = encode(&request()).unwrap();
        assert_eq!(decode(record).unwrap(), request());
    }

    #[test]
    fn a_record_of_an_earlier_build_names_no_token() {
        let head = br#"{"machine":"m","key":"k","priority":3,"user":"ann","path":"/a.B/C","metadata":[["x-a","1"]]}"#;
        let mut record = (head.len() as u32).to_be_bytes().to_vec();
        record.extend_from_slice(head);
        record.extend_from_slice(&request().body);
        let expected = PendingRequest {
            token: None,
            ..request()
        };
        assert_eq!(decode(record.into()).unwrap(), expected);
    }

    #[test]
    fn a_damaged_record_is_an_error_wherever_it_is_cut() {
        let record = encode(&request()).unwrap();
        let head = record.len() - request().body.len();
        for cut in 0..head {
            assert!(decode(record.slice(..cut)).is_err(), "cut at {cut}");
        }
    }
}
