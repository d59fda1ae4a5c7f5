use super::*;

#[test]
fn sizes_in_errors_are_readable_and_never_contradict_their_text() {
    let full = StoreError::LimitReached {
        path: "h.db".into(),
        used_bytes: 2_999_990,
        incoming_bytes: 21,
        limit_bytes: 3_000_000,
    };
    assert_eq!(
        full.to_string(),
        "h.db: the database has 3.00 MB in use, and 21 B more do not fit under its limit of 3.00 MB, of which 16.4 KB are kept for indexes"
    );
    let too_large = StoreError::PayloadTooLarge {
        id: SessionId::new("s").unwrap(),
        index: 0,
        bytes: 10_485_761,
        bytes_max: 10_485_760,
    };
    assert_eq!(
        too_large.to_string(),
        "message 0 of the batch for session s has 10,485,761 B, over the limit of 10,485,760 B"
    );
    let refused = crate::options::check_size_limits(crate::options::SizeLimits {
        db_bytes_max: 0,
        session_bytes_max: 0,
    })
    .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "db_bytes_max is not valid: 0 B is below the least that works, 1.00 MB"
    );
}
