//! Every bound of the relay, in one place, with its unit in its name.
//!
//! What users may set has its default here, and where a value can do harm a minimum and maximum.

/// The most that tunnels, clients and calls may be set to: more than any machine can hold, and
/// less than what they are counted with can count.
pub const SLOTS_MAX_CEILING: usize = 10_000_000;
/// Tunnels that one relay holds: the plan's measure of an instance.
pub const TUNNELS_MAX_DEFAULT: usize = 10_000;
/// Client connections that one relay holds: the plan's measure of an instance.
pub const CLIENTS_MAX_DEFAULT: usize = 50_000;
/// Calls under way in the whole relay.
pub const CALLS_MAX_DEFAULT: usize = 20_000;
/// Calls under way on one tunnel.
pub const CALLS_PER_TUNNEL_MAX: usize = 256;
/// Calls under way on one client connection.
pub const CALLS_PER_CLIENT_MAX: u32 = 128;

/// Bytes of one call and direction that the relay takes in before the other side takes them out.
pub const STREAM_WINDOW_BYTES: u32 = 128 << 10;
/// Bytes of a whole tunnel and direction that the relay takes in before the other side takes them out: so many
/// that streams which nobody reads never use them up, and so never block the others.
pub const TUNNEL_WINDOW_BYTES: u32 = STREAM_WINDOW_BYTES * CALLS_PER_TUNNEL_MAX as u32;
/// Bytes of a whole client connection and direction that the relay takes in before the other side takes them out.
pub const CLIENT_WINDOW_BYTES: u32 = STREAM_WINDOW_BYTES * CALLS_PER_CLIENT_MAX;
/// Bytes of one call and direction that wait for the socket.
pub const SEND_BUFFER_BYTES_MAX: usize = 64 << 10;
/// Bytes of frames that are joined: with its head, such a frame fills one TLS record.
pub const JOINED_BYTES_MAX: usize = (16 << 10) - 9;
/// Bytes of a call's metadata.
pub const METADATA_BYTES_MAX: u32 = 16 << 10;
/// Bytes of one gRPC message that passes through.
pub const MESSAGE_BYTES_MAX_DEFAULT: u64 = 16 << 20;
/// The most that [`MESSAGE_BYTES_MAX_DEFAULT`] may be raised to.
pub const MESSAGE_BYTES_MAX_CEILING: u64 = 128 << 20;
/// Cancelled calls that a peer may leave behind unnoticed before its connection is cut.
pub const RESETS_PENDING_MAX: usize = 64;

/// How often an idle connection is asked whether it still lives.
pub const KEEPALIVE_INTERVAL_MS_DEFAULT: u64 = 20_000;
/// How long a peer may take to answer a keep-alive ping.
pub const KEEPALIVE_TIMEOUT_MS_DEFAULT: u64 = 10_000;
/// How long a connection may take for TLS and greeting.
pub const GREETING_MS_MAX: u64 = 10_000;
/// Client connections of one address of which no caller is known yet: without such a bound, whoever
/// has no token could take all slots.
pub const CLIENTS_UNKNOWN_PER_ADDRESS_MAX: usize = 1_024;
/// On a small relay, one address may hold at most 1/N of `clients_max` without a token.
pub const CLIENTS_UNKNOWN_SHARE: usize = 4;
/// Connections to the tunnel port that may be in TLS and greeting at once.
pub const GREETINGS_MAX: usize = 1024;
/// How much longer than its deadline the relay waits for a call, so that the daemon, which knows
/// more, answers first.
pub const DEADLINE_GRACE_MS: u64 = 100;
/// How long a tunnel that has to go may finish its calls.
pub const GO_AWAY_GRACE_MS_DEFAULT: u64 = 30_000;
/// How long a daemon may take to answer that it has to go.
pub const GO_AWAY_ANSWER_MS_MAX: u64 = 2_000;
/// How long a daemon may take to answer that it has to go at once, as with a machine that was revoked.
pub const GO_AWAY_AT_ONCE_ANSWER_MS_MAX: u64 = 500;

/// After how long a call to a machine without a tunnel is worth a retry: by then a daemon whose relay
/// restarts has dialled again.
pub const RETRY_NO_TUNNEL_MS: u64 = 2_000;
/// After how long a call whose tunnel broke is worth a retry: daemons dial again at once.
pub const RETRY_TUNNEL_BROKE_MS: u64 = 500;
/// After how long a call that ended because the relay stops is worth a retry, at another relay.
pub const RETRY_DRAINING_MS: u64 = 1_000;
/// After how long a call that met a limit is worth a retry.
pub const RETRY_OVERLOADED_MS: u64 = 250;

/// Requests that wait for one machine.
pub const BUFFER_REQUESTS_PER_MACHINE_MAX_DEFAULT: usize = 1_000;
/// Requests that wait in the whole relay: ten machines' full share, as the plan counts.
pub const BUFFER_REQUESTS_MAX_DEFAULT: usize = 10_000;
/// Bytes of one request that waits, body and metadata.
pub const BUFFER_REQUEST_BYTES_MAX: usize = 1_000_000;
/// Bytes of requests that may wait, of any caller, while they are taken in: memory.
pub const INTAKE_BYTES_MAX: usize = 64 << 20;
/// How long a request that may wait may take to be whole.
pub const INTAKE_MS_MAX: u64 = 30_000;
/// Bytes of all requests that wait.
pub const BUFFER_BYTES_MAX_DEFAULT: u64 = 1_000_000_000;
/// How long a request waits.
pub const BUFFER_AGE_MS_MAX_DEFAULT: i64 = 7 * 24 * 3600 * 1000;
/// The most that [`BUFFER_AGE_MS_MAX_DEFAULT`] may be raised to.
pub const BUFFER_AGE_MS_MAX_CEILING: i64 = 90 * 24 * 3600 * 1000;
/// How far the clock may move beyond the time that has passed, from one check for requests that are too old to the
/// next. If it moves further, it was set, or the machine slept, and requests do not become older by that.
pub const BUFFER_CLOCK_JUMP_MS_MAX: i64 = 3600 * 1000;
/// How long a request that a relay finds in its buffer at its start is kept at least, however old it seems: by
/// then a wrong clock has been set right, and daemons have dialled.
pub const BUFFER_FOUND_AGE_LEFT_MS: i64 = 6 * 3600 * 1000;
/// How long the outcome of a request that waited is remembered, so that a repeat is known.
pub const OUTCOME_AGE_MS_MAX: i64 = BUFFER_AGE_MS_MAX_DEFAULT;
/// Outcomes that are remembered; the oldest give way.
pub const OUTCOMES_MAX: usize = 100_000;
/// Length of an idempotency key.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;
/// Priority of a request that names none.
pub const PRIORITY_DEFAULT: u8 = 5;
/// The last of the priorities, which begin at 0.
pub const PRIORITY_MAX: u8 = 9;
/// How long a daemon may take for one request that waited.
pub const DELIVERY_MS_MAX: u64 = 60_000;
/// First pause after a delivery that the daemon could not take.
pub const DELIVERY_RETRY_MS_MIN: u64 = 100;
/// Longest pause after a delivery that the daemon could not take; pauses double up to it.
pub const DELIVERY_RETRY_MS_MAX: u64 = 30_000;
/// Deliveries of one request that may end in an error of the daemon's own (INTERNAL, UNKNOWN,
/// deadline) before it counts as failed and lets the next one pass.
pub const DELIVERY_ATTEMPTS_MAX: u32 = 5;
/// How often requests that are too old are looked for.
pub const BUFFER_SWEEP_MS: u64 = 60_000;

/// Calls a second that one user may make.
pub const USER_CALLS_PER_S_DEFAULT: f64 = 200.0;
/// Calls that one user may make at once, after a pause.
pub const USER_CALLS_BURST_DEFAULT: f64 = 400.0;
/// Calls a second from one address, before anything is known of the caller.
pub const ADDRESS_CALLS_PER_S_DEFAULT: f64 = 1_000.0;
/// Calls from one address at once, after a pause.
pub const ADDRESS_CALLS_BURST_DEFAULT: f64 = 2_000.0;
/// Users and addresses that are counted at once.
pub const RATE_KEYS_MAX: usize = 100_000;
/// Users and addresses, the longest idle, that are forgotten together when there are too many.
pub const RATE_KEYS_DROPPED: usize = RATE_KEYS_MAX / 8;
/// Bytes of a token.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;
/// Machines that one token may name.
pub const TOKEN_MACHINES_MAX: usize = 256;
/// How long a token lasts.
pub const TOKEN_LIFE_S_DEFAULT: u64 = 3600;
/// How long a token may last at most.
pub const TOKEN_LIFE_S_MAX: u64 = 24 * 3600;
/// How long a token stays in the list of the revoked: a request that it sent may have waited for as
/// long as any, and be buffered at its very end.
pub const TOKEN_REVOKED_S: u64 =
    TOKEN_LIFE_S_MAX + BUFFER_AGE_MS_MAX_CEILING.cast_unsigned() / 1_000;
/// How far the clocks of the relay and of who issued a token may differ.
pub const TOKEN_LEEWAY_S: u64 = 5;
/// How long an enrolment code lasts.
pub const ENROLMENT_LIFE_S: u64 = 15 * 60;
/// Random bytes of an enrolment code.
pub const ENROLMENT_CODE_BYTES: usize = 16;
/// Bytes of the authority's digest that go with an enrolment code, by which a machine knows the relay.
pub const ENROLMENT_PIN_BYTES: usize = 16;
/// How long a machine's certificate lasts: a year.
pub const MACHINE_CERTIFICATE_LIFE_S: u64 = 365 * 24 * 3600;
/// How far back a machine's certificate begins, for clocks that differ.
pub const CERTIFICATE_BACKDATE_S: u64 = 3600;
/// How often files that a command may have changed are checked.
pub const STATE_POLL_MS: u64 = 250;

/// Open files that tunnels and clients leave for others: the buffer's database, listeners, certificates being
/// read, connections that are being greeted or turned away.
pub const FILES_RESERVED: usize = 256;
/// How often the relay measures how near it is to its limits.
pub const LEVELS_SAMPLE_MS: u64 = betcode_storage::capacity::levels::CPU_SAMPLE_INTERVAL_MS;

/// How long a reader of metrics may take.
pub const METRICS_MS_MAX: u64 = 1_000;
/// How long `betcode-relay budget` waits for the running relay.
pub const BUDGET_ANSWER_MS_MAX: u64 = 5_000;
/// Bytes of its answer.
pub const BUDGET_ANSWER_BYTES_MAX: u64 = 1_000_000;
/// Bytes of a request for metrics.
pub const METRICS_REQUEST_BYTES_MAX: usize = 4096;
/// Pause after a connection could not be accepted: there may be too many open files, and some close meanwhile.
pub const ACCEPT_PAUSE_MS: u64 = 50;

/// How long the relay waits, when it stops, for more of a call whose answer has begun. Then the call
/// counts as one that would never end, and is ended.
pub const DRAIN_QUIET_MS: u64 = 2_000;
/// How long before the end of its drain a relay ends the calls that are still under way, so that
/// callers get a status.
pub const DRAIN_CANCEL_LEAD_MS: u64 = 500;
/// How long the relay may take to stop.
pub const DRAIN_MS_MAX_DEFAULT: u64 = 30_000;

const _: () = {
    // Every stream of a connection full to its window still leaves the connection's window open.
    assert!(TUNNEL_WINDOW_BYTES as usize >= CALLS_PER_TUNNEL_MAX * STREAM_WINDOW_BYTES as usize);
    assert!(TUNNEL_WINDOW_BYTES <= i32::MAX as u32, "HTTP/2's own bound");
    assert!(CLIENT_WINDOW_BYTES <= i32::MAX as u32, "HTTP/2's own bound");
    assert!(BUFFER_REQUEST_BYTES_MAX <= INTAKE_BYTES_MAX);
    // A revocation is in force within a second, at tunnels too.
    assert!(STATE_POLL_MS + GO_AWAY_AT_ONCE_ANSWER_MS_MAX < 1_000);
    assert!(MESSAGE_BYTES_MAX_DEFAULT <= MESSAGE_BYTES_MAX_CEILING);
    assert!(BUFFER_AGE_MS_MAX_DEFAULT <= BUFFER_AGE_MS_MAX_CEILING);
    assert!(PRIORITY_DEFAULT <= PRIORITY_MAX);
    assert!(DELIVERY_RETRY_MS_MIN <= DELIVERY_RETRY_MS_MAX);
    assert!(TOKEN_LIFE_S_DEFAULT <= TOKEN_LIFE_S_MAX);
};
