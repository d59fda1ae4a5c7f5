//! What the network carries (plan: *Network Bandwidth*).

use serde::Serialize;

use super::inputs::inputs;
use crate::capacity::error::Result;
use crate::capacity::quantity::{ByteCount, KB, MB};

/// A kind of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Traffic {
    /// A connection that only stays open.
    IdleKeepalive,
    /// A session that prints.
    ActiveStreaming,
    /// A large file on its way, while it lasts.
    LargeFileRead,
    /// A client that replays history.
    HistoryReplay,
}

impl Traffic {
    /// All kinds, in the plan's order.
    pub const ALL: [Self; 4] = [
        Self::IdleKeepalive,
        Self::ActiveStreaming,
        Self::LargeFileRead,
        Self::HistoryReplay,
    ];

    /// The plan's name of it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::IdleKeepalive => "Idle keepalive",
            Self::ActiveStreaming => "Active streaming",
            Self::LargeFileRead => "Large file read",
            Self::HistoryReplay => "History replay",
        }
    }

    /// The kind as in JSON.
    #[must_use]
    pub fn programs_name(self) -> &'static str {
        match self {
            Self::IdleKeepalive => "idle_keepalive",
            Self::ActiveStreaming => "active_streaming",
            Self::LargeFileRead => "large_file_read",
            Self::HistoryReplay => "history_replay",
        }
    }

    /// How a daemon measures one of it.
    #[must_use]
    pub fn measured_how(self) -> &'static str {
        match self {
            Self::IdleKeepalive => {
                "the tunnel while no call is on it, probes of the relay and TLS included"
            }
            Self::ActiveStreaming => {
                "95 % of the seconds in which a stream had new messages stay below"
            }
            Self::LargeFileRead => "the busiest second of a stream of new messages",
            Self::HistoryReplay => "95 % of the seconds in which a replay went on stay below",
        }
    }

    /// Bytes a second of one of it.
    #[must_use]
    pub fn bytes_per_second(self) -> f64 {
        self.bytes().0 as f64 / self.per_seconds() as f64
    }

    /// What one of it takes: bytes …
    #[must_use]
    pub const fn bytes(self) -> ByteCount {
        ByteCount(match self {
            Self::IdleKeepalive => KB,
            Self::ActiveStreaming => 100 * KB,
            Self::LargeFileRead => MB,
            Self::HistoryReplay => 500 * KB,
        })
    }

    /// … in so many seconds.
    #[must_use]
    pub const fn per_seconds(self) -> u64 {
        match self {
            Self::IdleKeepalive => 60,
            _ => 1,
        }
    }

    /// Whether it lasts only for moments.
    #[must_use]
    pub fn is_burst(self) -> bool {
        self == Self::LargeFileRead
    }

    /// The plan's figure of it: `100 KB/s`.
    #[must_use]
    pub fn rate(self) -> &'static str {
        match self {
            Self::IdleKeepalive => "1 KB/min",
            Self::ActiveStreaming => "100 KB/s",
            Self::LargeFileRead => "1 MB/s burst",
            Self::HistoryReplay => "500 KB/s",
        }
    }
}

inputs! {
    /// How much of each kind there is at the same time. The plan has no example: one of each.
    bandwidth => pub struct BandwidthInputs {
        /// Connections that only stay open
        idle_connections: u64 = 1, PlanExample;
        /// Sessions that print
        active_streams: u64 = 1, PlanExample;
        /// Large files on their way
        large_file_reads: u64 = 1, PlanExample;
        /// Clients that replay history
        history_replays: u64 = 1, PlanExample;
    }
}

/// A kind of traffic and what it adds up to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BandwidthRow {
    /// The kind.
    pub traffic: Traffic,
    /// The plan's name of it.
    pub name: &'static str,
    /// The plan's figure for one.
    pub rate: &'static str,
    /// How many there are.
    pub streams: u64,
    /// What they take together in a second, rounded up.
    pub bytes_per_second: ByteCount,
    /// What a daemon measured of one of it, bytes a second.
    pub measured_bytes_per_second: Option<f64>,
    /// How, if it was.
    pub measured_how: Option<&'static str>,
}

/// The network's load.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bandwidth {
    /// The kinds in the plan's order.
    pub rows: Vec<BandwidthRow>,
    /// All that lasts, per second: everything but bursts.
    pub sustained_bytes_per_second: ByteCount,
    /// All at once, per second.
    pub peak_bytes_per_second: ByteCount,
}

impl Bandwidth {
    /// Computes the load of `inputs`, with rates of one of each kind that were `measured`, bytes a second.
    ///
    /// # Errors
    /// `CapacityError::Overflow` beyond 2^64 bytes per second.
    pub fn plan(inputs: &BandwidthInputs, measured: &[(Traffic, f64)]) -> Result<Self> {
        const WHAT: &str = "bandwidth";
        let rows = Traffic::ALL
            .into_iter()
            .map(|traffic| {
                let streams = match traffic {
                    Traffic::IdleKeepalive => inputs.idle_connections.value,
                    Traffic::ActiveStreaming => inputs.active_streams.value,
                    Traffic::LargeFileRead => inputs.large_file_reads.value,
                    Traffic::HistoryReplay => inputs.history_replays.value,
                };
                let bytes = traffic.bytes().times(WHAT, streams)?.0;
                let found = measured.iter().find(|(kind, _)| *kind == traffic);
                let measured = found.map(|(_, rate)| *rate);
                Ok(BandwidthRow {
                    traffic,
                    name: traffic.name(),
                    rate: traffic.rate(),
                    streams,
                    bytes_per_second: ByteCount(bytes.div_ceil(traffic.per_seconds())),
                    measured_bytes_per_second: measured,
                    measured_how: measured.map(|_| traffic.measured_how()),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let total = |bursts: bool| {
            let parts: Vec<ByteCount> = rows
                .iter()
                .filter(|row| bursts || !row.traffic.is_burst())
                .map(|row| row.bytes_per_second)
                .collect();
            ByteCount::sum(WHAT, &parts)
        };
        let (sustained, peak) = (total(false)?, total(true)?);
        Ok(Self {
            rows,
            sustained_bytes_per_second: sustained,
            peak_bytes_per_second: peak,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::quantity::Input;

    fn assert_row(name: &str, rate: &str, bytes_per_second: u64) {
        let bandwidth = Bandwidth::plan(&BandwidthInputs::default(), &[]).unwrap();
        let row = bandwidth.rows.iter().find(|row| row.name == name).unwrap();
        assert_eq!(row.rate, rate);
        assert_eq!(row.bytes_per_second, ByteCount(bytes_per_second));
    }

    #[test]
    fn bandwidth_row_idle_keepalive_1_kb_per_minute() {
        assert_row("Idle keepalive", "1 KB/min", 17);
        let traffic = Traffic::IdleKeepalive;
        assert_eq!(
            (traffic.bytes(), traffic.per_seconds()),
            (ByteCount(KB), 60)
        );
    }

    #[test]
    fn bandwidth_row_active_streaming_100_kb_per_second() {
        assert_row("Active streaming", "100 KB/s", 100 * KB);
    }

    #[test]
    fn bandwidth_row_large_file_read_1_mb_per_second_burst() {
        assert_row("Large file read", "1 MB/s burst", MB);
        assert!(Traffic::LargeFileRead.is_burst());
    }

    #[test]
    fn bandwidth_row_history_replay_500_kb_per_second() {
        assert_row("History replay", "500 KB/s", 500 * KB);
    }

    #[test]
    fn many_streams_add_up_and_bursts_count_for_the_peak_only() {
        let inputs = BandwidthInputs {
            idle_connections: Input::given(60),
            active_streams: Input::given(20),
            large_file_reads: Input::given(2),
            history_replays: Input::given(50),
        };
        let bandwidth = Bandwidth::plan(&inputs, &[]).unwrap();
        let sustained = KB + 20 * 100 * KB + 50 * 500 * KB;
        assert_eq!(bandwidth.sustained_bytes_per_second, ByteCount(sustained));
        assert_eq!(
            bandwidth.peak_bytes_per_second,
            ByteCount(sustained + 2 * MB)
        );
    }
}
