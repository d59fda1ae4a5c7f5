//! The requests that wait and the outcomes that are remembered, in memory, without the bodies. Pure: reading and
//! writing the disk is the caller's.

use std::collections::{BTreeMap, HashMap, VecDeque};

use betcode_schema_tunnel::MachineId;
use betcode_storage::capacity::text;

use super::record::Outcome;
use super::{BufferCounts, BufferError, KeyState, Ticket};

/// The buffer's bounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) requests_per_machine_max: usize,
    pub(crate) requests_max: usize,
    pub(crate) bytes_max: u64,
    pub(crate) outcomes_max: usize,
}

/// A request that waits.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) digest: u64,
    pub(super) bytes: usize,
    /// From when its age counts: see [`Index::clock_jumped`].
    pub(super) buffered_ms: i64,
    /// Whether it is on disk. Until then it only reserves its slot.
    pub(super) written: bool,
    /// Whether a delivery is under way: then only its outcome may settle the request or put it back.
    pub(super) delivering: bool,
    /// Whether it is being settled as too old, and so not to be delivered any more.
    pub(super) expiring: bool,
}

#[derive(Default)]
struct Queue {
    /// By priority, then order.
    entries: BTreeMap<(u8, u64), Entry>,
    by_key: HashMap<String, (u8, u64)>,
}

/// See the module.
pub(super) struct Index {
    bounds: Bounds,
    queues: HashMap<MachineId, Queue>,
    outcomes: HashMap<(MachineId, String), Outcome>,
    /// Keys of the outcomes, oldest first.
    outcomes_by_age: VecDeque<(MachineId, String)>,
    requests: usize,
    bytes: u64,
}

/// The index's answer to a request that is to be buffered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reservation {
    /// It is reserved: write the request, then call [`Index::written`] or [`Index::remove`].
    Reserved,
    /// The same request waits already, on disk.
    Waiting,
    /// It was settled before.
    Settled(tonic::Code),
}

impl Index {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            queues: HashMap::new(),
            outcomes: HashMap::new(),
            outcomes_by_age: VecDeque::new(),
            requests: 0,
            bytes: 0,
        }
    }

    pub(super) fn reserve(
        &mut self,
        ticket: &Ticket,
        entry: Entry,
    ) -> Result<Reservation, BufferError> {
        let bounds = self.bounds;
        if let Some(outcome) = self.outcome(&ticket.machine, &entry.key) {
            if outcome.digest != entry.digest {
                return Err(BufferError::KeyTaken);
            }
            return Ok(Reservation::Settled(outcome.code()));
        }
        if let Some(queue) = self.queues.get(&ticket.machine) {
            if let Some(there) = queue.by_key.get(&entry.key).map(|at| &queue.entries[at]) {
                return match (there.digest == entry.digest, there.written) {
                    (false, _) => Err(BufferError::KeyTaken),
                    (true, false) => Err(BufferError::BeingWritten),
                    (true, true) => Ok(Reservation::Waiting),
                };
            }
            let requests_max = bounds.requests_per_machine_max;
            if queue.entries.len() >= requests_max {
                return Err(BufferError::MachineFull { requests_max });
            }
        }
        if self.requests >= bounds.requests_max {
            let what = format!("{} requests", bounds.requests_max);
            return Err(BufferError::Full { what });
        }
        if self.bytes + entry.bytes as u64 > bounds.bytes_max {
            let what = text::bytes(bounds.bytes_max);
            return Err(BufferError::Full { what });
        }
        self.insert(ticket, entry);
        Ok(Reservation::Reserved)
    }

    /// Adds an entry whatever the bounds: its request is on disk already.
    pub(super) fn insert(&mut self, ticket: &Ticket, entry: Entry) {
        self.requests += 1;
        self.bytes += entry.bytes as u64;
        let queue = self.queues.entry(ticket.machine.clone()).or_default();
        let at = (ticket.priority, ticket.order);
        queue.by_key.insert(entry.key.clone(), at);
        queue.entries.insert(at, entry);
    }

    pub(super) fn written(&mut self, ticket: &Ticket) {
        let at = (ticket.priority, ticket.order);
        if let Some(queue) = self.queues.get_mut(&ticket.machine)
            && let Some(entry) = queue.entries.get_mut(&at)
        {
            entry.written = true;
        }
    }

    pub(super) fn get(&self, ticket: &Ticket) -> Option<&Entry> {
        let queue = self.queues.get(&ticket.machine)?;
        queue.entries.get(&(ticket.priority, ticket.order))
    }

    pub(super) fn remove(&mut self, ticket: &Ticket) -> Option<Entry> {
        let queue = self.queues.get_mut(&ticket.machine)?;
        let entry = queue.entries.remove(&(ticket.priority, ticket.order))?;
        queue.by_key.remove(&entry.key);
        if queue.entries.is_empty() {
            self.queues.remove(&ticket.machine);
        }
        self.requests -= 1;
        self.bytes -= entry.bytes as u64;
        Some(entry)
    }

    /// The machine's next request that is on disk, for a delivery. It stays until it is removed.
    pub(super) fn take_first(&mut self, machine: &MachineId) -> Option<Ticket> {
        let queue = self.queues.get_mut(machine)?;
        let mut entries = queue.entries.iter_mut();
        let next = entries.find(|(_, entry)| entry.written && !entry.expiring);
        let (&(priority, order), entry) = next?;
        entry.delivering = true;
        Some(Ticket {
            machine: machine.clone(),
            priority,
            order,
        })
    }

    /// Ends a delivery, or the settling of a request as too old: the request waits again.
    pub(super) fn put_back(&mut self, ticket: &Ticket) {
        let at = (ticket.priority, ticket.order);
        if let Some(queue) = self.queues.get_mut(&ticket.machine)
            && let Some(entry) = queue.entries.get_mut(&at)
        {
            (entry.delivering, entry.expiring) = (false, false);
        }
    }

    /// Adjusts all times after the clock jumped ahead to `now_ms`, so that nothing is older than before, nor from
    /// the future.
    pub(super) fn clock_jumped(&mut self, jump_ms: i64, now_ms: i64) {
        let move_on = |time_ms: &mut i64| *time_ms = time_ms.saturating_add(jump_ms).min(now_ms);
        for queue in self.queues.values_mut() {
            for entry in queue.entries.values_mut() {
                move_on(&mut entry.buffered_ms);
            }
        }
        for outcome in self.outcomes.values_mut() {
            move_on(&mut outcome.settled_ms);
        }
    }

    /// Requests buffered before a time that are not being delivered, to be settled as too old.
    pub(super) fn take_older_than(&mut self, time_ms: i64) -> Vec<Ticket> {
        let all = self.queues.iter_mut().flat_map(|(machine, queue)| {
            let old = queue
                .entries
                .iter_mut()
                .filter(move |(_, entry)| entry.written && !entry.delivering)
                .filter(move |(_, entry)| entry.buffered_ms < time_ms);
            old.map(|(&(priority, order), entry)| {
                entry.expiring = true;
                Ticket {
                    machine: machine.clone(),
                    priority,
                    order,
                }
            })
        });
        all.collect()
    }

    pub(super) fn settled(&mut self, outcome: Outcome) {
        let key = (outcome.machine.clone(), outcome.key.clone());
        if self.outcomes.insert(key.clone(), outcome).is_none() {
            self.outcomes_by_age.push_back(key);
        }
        while self.outcomes_by_age.len() > self.bounds.outcomes_max {
            self.forget_oldest();
        }
    }

    /// Forgets outcomes from before a time.
    pub(super) fn forget_before(&mut self, time_ms: i64) {
        while let Some(oldest) = self.outcomes_by_age.front() {
            let settled_ms = self.outcomes.get(oldest).map_or(i64::MIN, |o| o.settled_ms);
            if settled_ms >= time_ms {
                return;
            }
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.outcomes_by_age.pop_front() {
            self.outcomes.remove(&oldest);
        }
    }

    pub(super) fn outcome(&self, machine: &MachineId, key: &str) -> Option<&Outcome> {
        self.outcomes.get(&(machine.clone(), key.to_owned()))
    }

    pub(super) fn key_state(&self, machine: &MachineId, key: &str) -> Option<KeyState> {
        if let Some(outcome) = self.outcome(machine, key) {
            return Some(KeyState::Settled(outcome.code()));
        }
        let queue = self.queues.get(machine)?;
        queue.by_key.contains_key(key).then_some(KeyState::Waiting)
    }

    pub(super) fn waiting(&self, machine: &MachineId) -> usize {
        self.queues
            .get(machine)
            .map_or(0, |queue| queue.entries.len())
    }

    fn fullest(&self) -> usize {
        let lengths = self.queues.values().map(|queue| queue.entries.len());
        lengths.max().unwrap_or_default()
    }

    pub(super) fn counts(&self) -> BufferCounts {
        BufferCounts {
            requests: self.requests,
            bytes: self.bytes,
            machines: self.queues.len(),
            requests_of_fullest: self.fullest(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Index {
        Index::new(Bounds {
            requests_per_machine_max: 3,
            requests_max: 4,
            bytes_max: 100,
            outcomes_max: 2,
        })
    }

    fn ticket(machine: &str, priority: u8, order: u64) -> Ticket {
        let machine = machine.parse().unwrap();
        Ticket {
            machine,
            priority,
            order,
        }
    }

    fn entry(key: &str, bytes: usize) -> Entry {
        Entry {
            key: key.into(),
            digest: 1,
            bytes,
            buffered_ms: 10,
            written: true,
            delivering: false,
            expiring: false,
        }
    }

    #[test]
    fn the_next_is_the_first_by_priority_then_order_that_is_on_disk() {
        let mut index = index();
        let machine: MachineId = "m".parse().unwrap();
        for (priority, order) in [(5, 1), (5, 2)] {
            let reserved =
                index.reserve(&ticket("m", priority, order), entry(&format!("{order}"), 1));
            assert_eq!(reserved, Ok(Reservation::Reserved));
        }
        let urgent = ticket("m", 0, 3);
        let unwritten = Entry {
            written: false,
            ..entry("3", 1)
        };
        index.reserve(&urgent, unwritten).unwrap();
        assert_eq!(index.take_first(&machine), Some(ticket("m", 5, 1)));
        index.written(&urgent);
        for expected in [urgent, ticket("m", 5, 1), ticket("m", 5, 2)] {
            let first = index.take_first(&machine).unwrap();
            assert_eq!(first, expected);
            index.remove(&first);
        }
        assert_eq!(index.take_first(&machine), None);
        assert_eq!(index.counts(), BufferCounts::default());
    }

    #[test]
    fn a_request_is_either_delivered_or_too_old() {
        let mut index = index();
        let (first, second) = (ticket("m", 5, 1), ticket("m", 5, 2));
        index.reserve(&first, entry("1", 1)).unwrap();
        index.reserve(&second, entry("2", 1)).unwrap();
        let machine = first.machine.clone();
        assert_eq!(index.take_first(&machine), Some(first.clone()));
        assert_eq!(index.take_older_than(11), vec![second.clone()]);
        index.put_back(&first);
        assert_eq!(index.take_older_than(11), [first.clone(), second.clone()]);
        assert_eq!(index.take_first(&machine), None);
        index.put_back(&second);
        assert_eq!(index.take_first(&machine), Some(second));
    }

    #[test]
    fn every_bound_refuses_and_nothing_gives_way() {
        let mut index = index();
        for order in 1..=3 {
            index
                .reserve(&ticket("m", 5, order), entry(&format!("{order}"), 10))
                .unwrap();
        }
        let refused = index.reserve(&ticket("m", 0, 4), entry("4", 10));
        assert_eq!(refused, Err(BufferError::MachineFull { requests_max: 3 }));
        let refused = index.reserve(&ticket("n", 0, 4), entry("4", 71));
        assert!(matches!(refused, Err(BufferError::Full { .. })));
        index.reserve(&ticket("n", 0, 4), entry("4", 70)).unwrap();
        let refused = index.reserve(&ticket("o", 0, 5), entry("5", 0));
        assert!(matches!(refused, Err(BufferError::Full { .. })));
        assert_eq!((index.counts().requests, index.counts().bytes), (4, 100));
    }

    #[test]
    fn a_repeat_is_known_while_it_waits_and_after() {
        let mut index = index();
        let first = ticket("m", 5, 1);
        index.reserve(&first, entry("k", 1)).unwrap();
        let repeat = index.reserve(&ticket("m", 5, 2), entry("k", 1));
        assert_eq!(repeat, Ok(Reservation::Waiting));
        let other = Entry {
            digest: 2,
            ..entry("k", 1)
        };
        let refused = index.reserve(&ticket("m", 5, 2), other);
        assert_eq!(refused, Err(BufferError::KeyTaken));
        index.remove(&first);
        index.settled(Outcome {
            machine: first.machine.clone(),
            key: "k".into(),
            order: 1,
            digest: 1,
            code: 0,
            settled_ms: 20,
        });
        let repeat = index.reserve(&ticket("m", 5, 2), entry("k", 1));
        assert_eq!(repeat, Ok(Reservation::Settled(tonic::Code::Ok)));
        index.forget_before(21);
        assert_eq!(index.key_state(&first.machine, "k"), None);
    }
}
