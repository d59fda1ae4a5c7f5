//! What the daemon measures of its tunnel, and what the relay says of itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use betcode_schema_tunnel::RelayRouting;
use betcode_service::histogram::Histogram;
use betcode_service::io_bytes::IoBytes;
use betcode_service::sync::lock;

use super::buffered_body::large_answers;
use crate::admission::Limit;

/// A rate by the minute needs a minute.
const IDLE_MIN: Duration = Duration::from_secs(60);

/// Figures of all tunnels since the daemon started.
#[derive(Debug)]
pub struct TunnelFigures {
    /// Bytes of the connections to the relay, TLS and probes included.
    pub bytes: Arc<IoBytes>,
    /// From the greeting's hand-over to the connection to the relay's answer: one round trip, and what the
    /// relay takes to answer.
    pub round_trip: Histogram,
    /// Large answers to calls that may wait.
    pub(crate) large_answers: Arc<Limit>,
    routing: Mutex<Option<RelayRouting>>,
    calls_begun: AtomicU64,
    calls_under_way: AtomicU64,
    idle: Mutex<IdleTime>,
}

impl Default for TunnelFigures {
    fn default() -> Self {
        Self {
            bytes: Arc::default(),
            round_trip: Histogram::default(),
            large_answers: large_answers(),
            routing: Mutex::default(),
            calls_begun: AtomicU64::new(0),
            calls_under_way: AtomicU64::new(0),
            idle: Mutex::default(),
        }
    }
}

/// Time in which the tunnel was only kept open.
#[derive(Debug, Default)]
struct IdleTime {
    /// When it was last measured, and the bytes and calls until then.
    before: Option<(Instant, u64, u64)>,
    time: Duration,
    bytes: u64,
}

/// A call of the tunnel that is under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct CallUnderWay(Arc<TunnelFigures>);

impl Drop for CallUnderWay {
    fn drop(&mut self) {
        self.0.calls_under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl TunnelFigures {
    /// A call begins.
    pub(crate) fn begin_call(self: &Arc<Self>) -> CallUnderWay {
        self.calls_begun.fetch_add(1, Ordering::Relaxed);
        self.calls_under_way.fetch_add(1, Ordering::Relaxed);
        CallUnderWay(Arc::clone(self))
    }

    /// The relay answered a greeting.
    pub(crate) fn greeted(&self, took: Duration, routing: Option<RelayRouting>) {
        self.round_trip.record(took);
        // A relay that has routed nothing since it restarted says nothing, and nothing is known of it.
        *lock(&self.routing) = routing;
    }

    /// What the relay last said of its routing.
    #[must_use]
    pub fn routing(&self) -> Option<RelayRouting> {
        *lock(&self.routing)
    }

    /// Adds the time since the last time that this was called, if the tunnel was open and had no call meanwhile.
    pub(crate) fn measure_idle(&self, is_open: bool) {
        self.measure_idle_at(Instant::now(), is_open);
    }

    fn measure_idle_at(&self, now: Instant, is_open: bool) {
        let (bytes, calls) = (self.bytes.total(), self.calls_begun.load(Ordering::Relaxed));
        let quiet = is_open && self.calls_under_way.load(Ordering::Relaxed) == 0;
        let mut idle = lock(&self.idle);
        let before = std::mem::replace(&mut idle.before, quiet.then_some((now, bytes, calls)));
        if let Some((then, bytes_then, calls_then)) = before.filter(|_| quiet)
            && calls_then == calls
        {
            idle.time += now.duration_since(then);
            idle.bytes += bytes.saturating_sub(bytes_then);
        }
    }

    /// Bytes a minute, both directions together, that an idle tunnel took, and for how many seconds that was
    /// measured; `None` before there was a minute of that.
    #[must_use]
    pub fn idle_bytes_per_minute(&self) -> Option<(f64, u64)> {
        let idle = lock(&self.idle);
        let minutes = idle.time.as_secs_f64() / 60.0;
        (idle.time >= IDLE_MIN).then(|| (idle.bytes as f64 / minutes, idle.time.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use betcode_service::io_bytes::counted;
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn only_time_without_calls_on_an_open_tunnel_is_idle() {
        let figures = Arc::<TunnelFigures>::default();
        let mut stream = counted(tokio::io::sink(), Arc::clone(&figures.bytes));
        let begun = Instant::now();
        let at = |s| begun + Duration::from_secs(s);
        figures.measure_idle_at(at(0), false);
        figures.measure_idle_at(at(10), true);
        stream.write_all(&[0; 100]).await.unwrap();
        figures.measure_idle_at(at(40), true);
        assert_eq!(figures.idle_bytes_per_minute(), None, "half a minute");
        let call = figures.begin_call();
        stream.write_all(&[0; 9_000]).await.unwrap();
        figures.measure_idle_at(at(50), true);
        drop(call);
        figures.measure_idle_at(at(60), true);
        // A call between two measurements.
        drop(figures.begin_call());
        stream.write_all(&[0; 9_000]).await.unwrap();
        figures.measure_idle_at(at(70), true);
        stream.write_all(&[0; 200]).await.unwrap();
        figures.measure_idle_at(at(100), true);
        figures.measure_idle_at(at(110), false);
        assert_eq!(figures.idle_bytes_per_minute(), Some((300.0, 60)));
    }
}
