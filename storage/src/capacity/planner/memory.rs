//! Memory of daemon and relay, and the daemon's memory budget
//! (plan: *Memory Estimation*, *Memory Budget*).

use serde::Serialize;

use super::inputs::inputs;
use crate::capacity::error::{CapacityError, Result};
use crate::capacity::quantity::{ByteCount, Input, MB};

/// Memory of an idle daemon.
pub const DAEMON_BASE_BYTES: ByteCount = ByteCount(50 * MB);
/// Buffers and state of a session.
pub const DAEMON_SESSION_BYTES: ByteCount = ByteCount(5 * MB);
/// gRPC stream state of a client.
pub const DAEMON_CLIENT_BYTES: ByteCount = ByteCount(MB);
/// The daemon's overhead for a subprocess, without the agent's own memory.
pub const DAEMON_SUBPROCESS_BYTES: ByteCount = ByteCount(20 * MB);

/// Memory of an idle relay.
pub const RELAY_BASE_BYTES: ByteCount = ByteCount(100 * MB);
/// Stream state and certificate cache of a tunnel: 0.05 MB.
pub const RELAY_TUNNEL_BYTES: ByteCount = ByteCount(50_000);
/// Token cache and connection state of a client: 0.02 MB.
pub const RELAY_CLIENT_BYTES: ByteCount = ByteCount(20_000);
/// A buffered message on average: 0.01 MB.
pub const RELAY_BUFFERED_MESSAGE_BYTES: ByteCount = ByteCount(10_000);

/// Sessions of the plan's example and of its memory budget.
pub const DAEMON_SESSIONS: u64 = 20;
/// Clients of the plan's example and of its memory budget.
pub const DAEMON_CLIENTS: u64 = 50;
/// Subprocesses of the plan's example and of its memory budget.
pub const DAEMON_SUBPROCESSES: u64 = 5;
/// Memory that a daemon may use by default.
pub const DAEMON_MEMORY_LIMIT_BYTES: ByteCount = ByteCount(512 * MB);
/// Page cache of SQLite in the memory budget.
pub const SQLITE_CACHE_BYTES: ByteCount = ByteCount(100 * MB);

inputs! {
    /// Inputs of *Daemon Memory Formula*.
    daemon_memory => pub struct DaemonMemoryInputs {
        /// Sessions in use at the same time
        sessions: u64 = DAEMON_SESSIONS, PlanExample;
        /// Clients connected
        clients: u64 = DAEMON_CLIENTS, PlanExample;
        /// Agent subprocesses running
        subprocesses: u64 = DAEMON_SUBPROCESSES, PlanExample;
        /// An idle daemon
        base_bytes: ByteCount = DAEMON_BASE_BYTES, PlanDefault;
        /// A session: buffers, state
        per_session_bytes: ByteCount = DAEMON_SESSION_BYTES, PlanDefault;
        /// A client: gRPC stream state
        per_client_bytes: ByteCount = DAEMON_CLIENT_BYTES, PlanDefault;
        /// A subprocess: overhead, without the agent's own memory
        per_subprocess_bytes: ByteCount = DAEMON_SUBPROCESS_BYTES, PlanDefault;
    }
}

inputs! {
    /// Inputs of *Relay Memory Formula*.
    relay_memory => pub struct RelayMemoryInputs {
        /// Tunnels to daemons
        tunnels: u64 = 5_000, PlanExample;
        /// Clients connected
        clients: u64 = 20_000, PlanExample;
        /// Messages buffered for daemons that are away
        buffered_messages: u64 = 10_000, PlanExample;
        /// An idle relay
        base_bytes: ByteCount = RELAY_BASE_BYTES, PlanDefault;
        /// A tunnel: stream state, certificate cache
        per_tunnel_bytes: ByteCount = RELAY_TUNNEL_BYTES, PlanDefault;
        /// A client: token cache, connection state
        per_client_bytes: ByteCount = RELAY_CLIENT_BYTES, PlanDefault;
        /// A buffered message, on average
        per_buffered_message_bytes: ByteCount = RELAY_BUFFERED_MESSAGE_BYTES, PlanDefault;
    }
}

inputs! {
    /// Inputs of *Memory Budget*, beside those of the daemon's memory.
    memory_budget => pub struct MemoryBudgetInputs {
        /// Memory that the daemon may use
        limit_bytes: ByteCount = DAEMON_MEMORY_LIMIT_BYTES, PlanDefault;
        /// SQLite's page cache
        sqlite_cache_bytes: ByteCount = SQLITE_CACHE_BYTES, PlanDefault;
    }
}

/// Memory that a daemon needs: `base + sessions × 5 + clients × 1 + subprocesses × 20` MB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DaemonMemory {
    /// Idle.
    pub base_bytes: ByteCount,
    /// All sessions.
    pub sessions_bytes: ByteCount,
    /// All clients.
    pub clients_bytes: ByteCount,
    /// All subprocesses.
    pub subprocesses_bytes: ByteCount,
    /// The sum.
    pub total_bytes: ByteCount,
}

impl DaemonMemory {
    /// Computes *Daemon Memory Formula*.
    ///
    /// # Errors
    /// [`CapacityError::Overflow`] beyond 2^64 bytes.
    pub fn plan(inputs: &DaemonMemoryInputs) -> Result<Self> {
        const WHAT: &str = "daemon memory";
        let base_bytes = inputs.base_bytes.value;
        let sessions_bytes = inputs
            .per_session_bytes
            .value
            .times(WHAT, inputs.sessions.value)?;
        let clients_bytes = inputs
            .per_client_bytes
            .value
            .times(WHAT, inputs.clients.value)?;
        let subprocesses_bytes = inputs
            .per_subprocess_bytes
            .value
            .times(WHAT, inputs.subprocesses.value)?;
        let parts = [
            base_bytes,
            sessions_bytes,
            clients_bytes,
            subprocesses_bytes,
        ];
        let total_bytes = ByteCount::sum(WHAT, &parts)?;
        Ok(Self {
            base_bytes,
            sessions_bytes,
            clients_bytes,
            subprocesses_bytes,
            total_bytes,
        })
    }
}

/// Memory that a relay needs:
/// `base + tunnels × 0.05 + clients × 0.02 + buffered messages × 0.01` MB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RelayMemory {
    /// Idle.
    pub base_bytes: ByteCount,
    /// All tunnels.
    pub tunnels_bytes: ByteCount,
    /// All clients.
    pub clients_bytes: ByteCount,
    /// All buffered messages.
    pub buffer_bytes: ByteCount,
    /// The sum.
    pub total_bytes: ByteCount,
}

impl RelayMemory {
    /// Computes *Relay Memory Formula*.
    ///
    /// # Errors
    /// [`CapacityError::Overflow`] beyond 2^64 bytes.
    pub fn plan(inputs: &RelayMemoryInputs) -> Result<Self> {
        const WHAT: &str = "relay memory";
        let base_bytes = inputs.base_bytes.value;
        let tunnels_bytes = inputs
            .per_tunnel_bytes
            .value
            .times(WHAT, inputs.tunnels.value)?;
        let clients_bytes = inputs
            .per_client_bytes
            .value
            .times(WHAT, inputs.clients.value)?;
        let buffer_bytes = inputs
            .per_buffered_message_bytes
            .value
            .times(WHAT, inputs.buffered_messages.value)?;
        let parts = [base_bytes, tunnels_bytes, clients_bytes, buffer_bytes];
        let total_bytes = ByteCount::sum(WHAT, &parts)?;
        Ok(Self {
            base_bytes,
            tunnels_bytes,
            clients_bytes,
            buffer_bytes,
            total_bytes,
        })
    }
}

/// Memory of a running daemon, and what it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct MemoryNow {
    /// In RAM.
    pub resident_bytes: u64,
    /// In RAM when it began to serve.
    pub base_bytes: u64,
    /// Sessions in use.
    pub sessions: u64,
    /// Clients.
    pub clients: u64,
    /// Agents that run.
    pub subprocesses: u64,
    /// What SQLite's page caches may take as they are configured.
    pub sqlite_cache_bytes: u64,
}

impl MemoryNow {
    /// *Daemon Memory Formula* for what is in use.
    ///
    /// # Errors
    /// [`CapacityError::Overflow`] beyond 2^64 bytes.
    pub fn plan(&self) -> Result<DaemonMemory> {
        DaemonMemory::plan(&DaemonMemoryInputs {
            sessions: Input::measured(self.sessions),
            clients: Input::measured(self.clients),
            subprocesses: Input::measured(self.subprocesses),
            ..DaemonMemoryInputs::default()
        })
    }
}

/// What is known of a line of the memory budget in a running daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum BudgetNow {
    /// It was measured.
    Measured {
        /// How much.
        bytes: ByteCount,
    },
    /// Nothing measures it apart: what the plan gives for so many.
    Derived {
        /// How many are in use.
        in_use: u64,
        /// The plan's, for these.
        bytes: ByteCount,
    },
    /// It may take so much, as it is configured; what it takes is not measured apart.
    Configured {
        /// How much.
        bytes: ByteCount,
    },
}

/// One line of the memory budget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryBudgetRow {
    /// What takes the memory, with its number in parentheses, as the plan writes it.
    pub component: String,
    /// How much it takes.
    pub budget_bytes: ByteCount,
    /// What is known of it in a daemon that was asked.
    pub now: Option<BudgetNow>,
}

/// The daemon's memory against its limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryBudget {
    /// Components in the plan's order, without the headroom.
    pub rows: Vec<MemoryBudgetRow>,
    /// Memory that the daemon may use.
    pub limit_bytes: ByteCount,
    /// Their sum.
    pub used_bytes: ByteCount,
    /// What is left of the limit; 0 when it does not fit.
    pub headroom_bytes: ByteCount,
    /// What is missing; 0 when it fits.
    pub missing_bytes: ByteCount,
    /// In RAM now, of a daemon that was asked.
    pub resident_bytes: Option<ByteCount>,
    /// That less the base: sessions, clients, agents' pipes and caches together.
    pub above_base_bytes: Option<ByteCount>,
}

impl MemoryBudget {
    /// Computes *Memory Budget* for the loads of `daemon`, with what a running daemon takes `now` beside it.
    ///
    /// # Errors
    /// [`CapacityError::Zero`] for a limit of 0, [`CapacityError::Overflow`] beyond 2^64 bytes.
    /// A load that does not fit is an answer, not an error: see
    /// [`missing_bytes`](Self::missing_bytes).
    pub fn plan(
        daemon: &DaemonMemoryInputs,
        inputs: &MemoryBudgetInputs,
        now: Option<&MemoryNow>,
    ) -> Result<Self> {
        let limit_bytes = inputs.limit_bytes.value;
        if limit_bytes.0 == 0 {
            let why = "a daemon needs memory; give the limit that it runs under";
            return Err(CapacityError::Zero {
                what: "memory_budget.limit_bytes",
                why,
            });
        }
        let memory = DaemonMemory::plan(daemon)?;
        let mut of_rows = budget_now(now)?.into_iter();
        let mut row = |component: String, budget_bytes| MemoryBudgetRow {
            component,
            budget_bytes,
            now: of_rows.next(),
        };
        let counted = |name: &str, number: u64| format!("{name} ({number})");
        let rows = vec![
            row("Base runtime".into(), memory.base_bytes),
            row(
                counted("Session state", daemon.sessions.value),
                memory.sessions_bytes,
            ),
            row(
                counted("Client buffers", daemon.clients.value),
                memory.clients_bytes,
            ),
            row(
                counted("Subprocess overhead", daemon.subprocesses.value),
                memory.subprocesses_bytes,
            ),
            row("SQLite cache".into(), inputs.sqlite_cache_bytes.value),
        ];
        let parts = [memory.total_bytes, inputs.sqlite_cache_bytes.value];
        let used_bytes = ByteCount::sum("memory budget", &parts)?;
        Ok(Self {
            rows,
            limit_bytes,
            used_bytes,
            headroom_bytes: ByteCount(limit_bytes.0.saturating_sub(used_bytes.0)),
            missing_bytes: ByteCount(used_bytes.0.saturating_sub(limit_bytes.0)),
            resident_bytes: now.map(|now| ByteCount(now.resident_bytes)),
            above_base_bytes: now
                .map(|now| ByteCount(now.resident_bytes.saturating_sub(now.base_bytes))),
        })
    }

    /// Whether all components fit under the limit.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.missing_bytes.0 == 0
    }
}

/// What is known of each row of the budget, in its order; nothing without a daemon.
fn budget_now(now: Option<&MemoryNow>) -> Result<Vec<BudgetNow>> {
    let Some(now) = now else {
        return Ok(Vec::new());
    };
    let planned = now.plan()?;
    let derived = |in_use, bytes| BudgetNow::Derived { in_use, bytes };
    Ok(vec![
        BudgetNow::Measured {
            bytes: ByteCount(now.base_bytes),
        },
        derived(now.sessions, planned.sessions_bytes),
        derived(now.clients, planned.clients_bytes),
        derived(now.subprocesses, planned.subprocesses_bytes),
        BudgetNow::Configured {
            bytes: ByteCount(now.sqlite_cache_bytes),
        },
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plan_example_daemon_20_sessions_50_clients_5_subprocesses_is_300_mb() {
        let memory = DaemonMemory::plan(&DaemonMemoryInputs::default()).unwrap();
        assert_eq!(memory.base_bytes, ByteCount(50 * MB));
        assert_eq!(memory.sessions_bytes, ByteCount(100 * MB));
        assert_eq!(memory.clients_bytes, ByteCount(50 * MB));
        assert_eq!(memory.subprocesses_bytes, ByteCount(100 * MB));
        assert_eq!(memory.total_bytes, ByteCount(300 * MB));
    }

    #[test]
    fn plan_example_relay_5000_tunnels_20000_clients_10000_buffered_is_850_mb() {
        let memory = RelayMemory::plan(&RelayMemoryInputs::default()).unwrap();
        assert_eq!(memory.base_bytes, ByteCount(100 * MB));
        assert_eq!(memory.tunnels_bytes, ByteCount(250 * MB));
        assert_eq!(memory.clients_bytes, ByteCount(400 * MB));
        assert_eq!(memory.buffer_bytes, ByteCount(100 * MB));
        assert_eq!(memory.total_bytes, ByteCount(850 * MB));
    }

    fn budget() -> MemoryBudget {
        MemoryBudget::plan(
            &DaemonMemoryInputs::default(),
            &MemoryBudgetInputs::default(),
            None,
        )
        .unwrap()
    }

    fn assert_budget_row(component: &str, megabytes: u64) {
        let budget = budget();
        let row = budget
            .rows
            .iter()
            .find(|row| row.component == component)
            .unwrap();
        assert_eq!(row.budget_bytes, ByteCount(megabytes * MB));
    }

    #[test]
    fn memory_budget_row_base_runtime_50_mb() {
        assert_budget_row("Base runtime", 50);
    }

    #[test]
    fn memory_budget_row_session_state_20_is_100_mb() {
        assert_budget_row("Session state (20)", 100);
    }

    #[test]
    fn memory_budget_row_client_buffers_50_is_50_mb() {
        assert_budget_row("Client buffers (50)", 50);
    }

    #[test]
    fn memory_budget_row_subprocess_overhead_5_is_100_mb() {
        assert_budget_row("Subprocess overhead (5)", 100);
    }

    #[test]
    fn memory_budget_row_sqlite_cache_100_mb() {
        assert_budget_row("SQLite cache", 100);
    }

    #[test]
    fn memory_budget_row_headroom_112_mb_of_512() {
        assert_eq!(budget().limit_bytes, ByteCount(512 * MB));
        assert_eq!(budget().headroom_bytes, ByteCount(112 * MB));
        assert!(budget().fits());
    }

    #[test]
    fn a_load_over_the_budget_says_how_much_is_missing() {
        let daemon = DaemonMemoryInputs {
            sessions: Input::given(60),
            ..DaemonMemoryInputs::default()
        };
        let budget = MemoryBudget::plan(&daemon, &MemoryBudgetInputs::default(), None).unwrap();
        assert!(!budget.fits());
        assert_eq!(budget.missing_bytes, ByteCount(88 * MB));
        assert_eq!(budget.headroom_bytes, ByteCount(0));
    }

    #[test]
    fn each_row_of_the_budget_says_what_is_measured_derived_or_configured() {
        let now = MemoryNow {
            resident_bytes: 30 * MB,
            base_bytes: 18 * MB,
            sessions: 3,
            clients: 2,
            subprocesses: 1,
            sqlite_cache_bytes: 33 * MB,
        };
        let (daemon, inputs) = Default::default();
        let budget = MemoryBudget::plan(&daemon, &inputs, Some(&now)).unwrap();
        let mb = |count: u64| ByteCount(count * MB);
        let derived = |in_use, bytes| BudgetNow::Derived { in_use, bytes };
        let of_rows: Vec<_> = budget.rows.iter().filter_map(|row| row.now).collect();
        assert_eq!(
            of_rows,
            [
                BudgetNow::Measured { bytes: mb(18) },
                derived(3, mb(15)),
                derived(2, mb(2)),
                derived(1, mb(20)),
                BudgetNow::Configured { bytes: mb(33) },
            ]
        );
        assert_eq!(budget.above_base_bytes, Some(mb(12)));
        assert_eq!(now.plan().unwrap().total_bytes, mb(50 + 15 + 2 + 20));
    }

    #[test]
    fn a_memory_limit_of_zero_is_refused() {
        let inputs = MemoryBudgetInputs {
            limit_bytes: Input::given(ByteCount(0)),
            ..MemoryBudgetInputs::default()
        };
        let error = MemoryBudget::plan(&DaemonMemoryInputs::default(), &inputs, None).unwrap_err();
        assert!(matches!(error, CapacityError::Zero { .. }), "{error}");
    }

    #[test]
    fn memory_beyond_2_64_bytes_is_refused_not_wrapped() {
        let daemon = DaemonMemoryInputs {
            sessions: Input::given(u64::MAX),
            ..DaemonMemoryInputs::default()
        };
        assert!(matches!(
            DaemonMemory::plan(&daemon),
            Err(CapacityError::Overflow { .. })
        ));
        let relay = RelayMemoryInputs {
            tunnels: Input::given(u64::MAX),
            ..RelayMemoryInputs::default()
        };
        assert!(matches!(
            RelayMemory::plan(&relay),
            Err(CapacityError::Overflow { .. })
        ));
    }
}
