//! What goes over the network, by the capacity plan's kinds of traffic.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use betcode_service::histogram::Histogram;

/// A stream's traffic is looked at a second at a time.
const WINDOW: Duration = Duration::from_secs(1);

/// Payload bytes handed to clients, without what gRPC and HTTP/2 add.
#[derive(Debug, Default)]
pub struct TrafficBytes {
    /// New messages, as they are recorded.
    pub live: Arc<StreamBytes>,
    /// History, read from the store.
    pub replayed: Arc<StreamBytes>,
}

/// Bytes of all streams of one kind.
#[derive(Debug, Default)]
pub struct StreamBytes {
    bytes: AtomicU64,
    /// Bytes of one stream in one second, of the seconds in which it had any.
    seconds: Histogram,
}

impl StreamBytes {
    /// All of them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Seconds in which a stream had bytes, as many as are over.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        self.seconds.count()
    }

    /// Bytes that 95 % of these seconds stay below; `None` before the first.
    #[must_use]
    pub fn p95_bytes_per_second(&self) -> Option<f64> {
        (self.seconds() > 0).then(|| self.seconds.quantile(0.95))
    }

    /// Bytes of the busiest of them; `None` before the first.
    #[must_use]
    pub fn busiest_second_bytes(&self) -> Option<u64> {
        (self.seconds() > 0).then(|| self.seconds.max())
    }
}

/// Counts the bytes of one stream.
#[derive(Debug)]
pub struct StreamMeter {
    all: Arc<StreamBytes>,
    /// Since when the second under way lasts, and its bytes; `None` while there are none.
    second: Option<(Instant, u64)>,
}

impl StreamMeter {
    /// A stream among those of its kind.
    #[must_use]
    pub fn new(all: &Arc<StreamBytes>) -> Self {
        Self {
            all: Arc::clone(all),
            second: None,
        }
    }

    /// Bytes were handed to the client.
    pub fn add(&mut self, bytes: u64) {
        self.add_at(Instant::now(), bytes);
    }

    fn add_at(&mut self, now: Instant, bytes: u64) {
        self.all.bytes.fetch_add(bytes, Ordering::Relaxed);
        if self
            .second
            .is_some_and(|(began, _)| now.duration_since(began) >= WINDOW)
        {
            self.end_second();
        }
        let (_, sum) = self.second.get_or_insert((now, 0));
        *sum += bytes;
    }

    fn end_second(&mut self) {
        if let Some((_, bytes)) = self.second.take().filter(|(_, bytes)| *bytes > 0) {
            self.all.seconds.add(bytes);
        }
    }
}

impl Drop for StreamMeter {
    fn drop(&mut self) {
        self.end_second();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_measured_in_the_seconds_in_which_it_had_bytes() {
        let all = Arc::<StreamBytes>::default();
        let begun = Instant::now();
        let mut meter = StreamMeter::new(&all);
        assert_eq!(all.p95_bytes_per_second(), None);
        for (after_ms, bytes) in [(0, 400), (900, 600), (1_000, 50), (60_000, 70)] {
            meter.add_at(begun + Duration::from_millis(after_ms), bytes);
        }
        // The last second is not over; the pause of almost a minute was none of its own.
        assert_eq!((all.bytes(), all.seconds()), (1_120, 2));
        assert_eq!(all.busiest_second_bytes(), Some(1_000));
        drop(meter);
        assert_eq!(all.seconds(), 3);
    }
}
