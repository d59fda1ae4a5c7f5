use super::*;
use crate::capacity::levels::CPU_SUSTAINED_SAMPLES;
use proptest::prelude::*;

fn levels(tracker: &mut LevelTracker, metric: Metric, samples: &[u64]) -> Vec<(Level, Level)> {
    let observed = samples
        .iter()
        .flat_map(|used| tracker.observe(metric, *used, 100).unwrap());
    observed
        .filter_map(|event| match event {
            CapacityEvent::LevelChanged { from, to, .. } => Some((from, to)),
            _ => None,
        })
        .collect()
}

#[test]
fn a_store_driven_past_70_90_and_100_percent_tells_each_once() {
    let mut tracker = LevelTracker::new();
    let events: Vec<_> = (60..=110)
        .flat_map(|used| tracker.observe(Metric::SqliteSize, used, 100).unwrap())
        .collect();
    let metric = Metric::SqliteSize;
    let change = |from, to, used| CapacityEvent::LevelChanged {
        metric,
        from,
        to,
        used,
        limit: 100,
    };
    assert_eq!(
        events,
        [
            change(Level::Ok, Level::Warning, 70),
            change(Level::Warning, Level::Critical, 90),
            CapacityEvent::LimitReached {
                metric,
                used: 100,
                limit: 100
            },
        ]
    );
    let cleared = tracker.observe(metric, 30, 100).unwrap();
    assert_eq!(
        cleared,
        [
            change(Level::Critical, Level::Ok, 30),
            CapacityEvent::LimitCleared {
                metric,
                used: 30,
                limit: 100
            },
        ]
    );
}

#[test]
fn hovering_around_a_threshold_is_one_event() {
    let mut tracker = LevelTracker::new();
    let samples: Vec<u64> = (0..100).map(|i| 70 - i % 2 * 4).collect();
    let changes = levels(&mut tracker, Metric::SqliteSize, &samples);
    assert_eq!(changes, [(Level::Ok, Level::Warning)]);
}

#[test]
fn hovering_at_the_limit_is_one_event() {
    let mut tracker = LevelTracker::new();
    let reached = (0..100)
        .flat_map(|i| {
            tracker
                .observe(Metric::SqliteSize, 1000 - i % 2 * 9, 1000)
                .unwrap()
        })
        .filter(|event| !matches!(event, CapacityEvent::LevelChanged { .. }))
        .count();
    assert_eq!(reached, 1);
}

#[test]
fn a_jump_over_a_level_is_one_event() {
    let mut tracker = LevelTracker::new();
    let changes = levels(&mut tracker, Metric::Memory, &[10, 99, 10]);
    assert_eq!(
        changes,
        [(Level::Ok, Level::Critical), (Level::Critical, Level::Ok)]
    );
}

#[test]
fn processor_load_counts_only_when_it_is_sustained() {
    let mut tracker = LevelTracker::new();
    let needed = CPU_SUSTAINED_SAMPLES as usize;
    let mut almost = vec![95; needed - 1];
    almost.push(10);
    assert_eq!(levels(&mut tracker, Metric::Cpu, &almost.repeat(3)), []);
    let sustained = levels(&mut tracker, Metric::Cpu, &vec![95; needed]);
    assert_eq!(sustained, [(Level::Ok, Level::Critical)]);
    let moment = levels(&mut tracker, Metric::Cpu, &[10, 95, 95]);
    assert_eq!(moment, [], "a moment's rest does not end it");
    let rest = levels(&mut tracker, Metric::Cpu, &vec![10; needed]);
    assert_eq!(rest, [(Level::Critical, Level::Ok)]);
}

#[test]
fn sustained_load_between_the_thresholds_is_a_warning() {
    let mut tracker = LevelTracker::new();
    let samples = [95, 80].repeat(CPU_SUSTAINED_SAMPLES as usize);
    assert_eq!(
        levels(&mut tracker, Metric::Cpu, &samples),
        [(Level::Ok, Level::Warning)]
    );
}

#[test]
fn a_raised_limit_counts_at_once() {
    let mut tracker = LevelTracker::new();
    tracker.observe(Metric::SqliteSize, 100, 100).unwrap();
    let events = tracker.observe(Metric::SqliteSize, 100, 1000).unwrap();
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(events.iter().all(|event| !event.is_worse()));
    assert_eq!(tracker.worst(), Level::Ok);
}

#[test]
fn a_refused_sample_changes_nothing() {
    let mut tracker = LevelTracker::new();
    tracker.observe(Metric::Tunnels, 95, 100).unwrap();
    assert!(tracker.observe(Metric::Tunnels, 0, 0).is_err());
    assert_eq!(tracker.level(Metric::Tunnels), Level::Critical);
}

#[test]
fn an_event_reads_as_a_sentence_that_says_what_helps() {
    let mut tracker = LevelTracker::new();
    let events = tracker
        .observe(Metric::SqliteSize, 720_000_000, 1_000_000_000)
        .unwrap();
    assert_eq!(
        events[0].to_string(),
        "the database: 720 MB of 1.00 GB (72 %), warning: compact, delete sessions, \
         or raise the limit (--limit-bytes, a daemon's max_db_bytes)"
    );
}

#[test]
fn the_buffers_event_says_what_its_numbers_may_be() {
    let mut tracker = LevelTracker::new();
    let (used, limit) = (950_000_000, 1_000_000_000);
    let events = tracker.observe(Metric::BufferSize, used, limit).unwrap();
    assert_eq!(
        events[0].to_string(),
        "the buffer (requests in all or of one machine, or bytes, whichever is nearest): 950,000,000 of 1,000,000,000 (95 %), \
         critical: bring the daemons that are away back, or raise the buffer's limits"
    );
}

#[test]
fn advice_that_only_one_program_can_follow_says_which() {
    for (metric, only) in [
        (Metric::Memory, "max_memory_bytes"),
        (Metric::Cpu, "compaction"),
        (Metric::SqliteSize, "max_db_bytes"),
    ] {
        let advice = metric.advice();
        let before = advice.split(only).next().unwrap_or_default();
        assert!(before.contains("a daemon"), "{advice}");
    }
}

fn metrics() -> impl Strategy<Value = Metric> {
    proptest::sample::select(Metric::ALL.to_vec())
}

proptest! {
    /// Events form a chain: each starts at the level where the one before it ended, and
    /// none says that nothing changed.
    #[test]
    fn every_transition_is_told_exactly_once(
        metric in metrics(), samples in prop::collection::vec(0u64..130, 0..200)
    ) {
        let mut tracker = LevelTracker::new();
        let mut level = Level::Ok;
        for used in samples {
            for (from, to) in levels(&mut tracker, metric, &[used]) {
                prop_assert_eq!(from, level);
                prop_assert_ne!(from, to);
                level = to;
            }
            prop_assert_eq!(tracker.level(metric), level);
        }
    }

    /// Wandering within less than the margin may raise a level, but never lowers it again.
    #[test]
    fn no_walk_within_the_margin_flaps(
        metric in metrics(), base in 0u64..1200, steps in prop::collection::vec(0u64..50, 1..300)
    ) {
        let mut tracker = LevelTracker::new();
        let mut before = Level::Ok;
        for step in steps {
            tracker.observe(metric, base + step, 1000).unwrap();
            prop_assert!(tracker.level(metric) >= before);
            before = tracker.level(metric);
        }
    }

    /// Limits are reached and cleared in turns.
    #[test]
    fn reaching_and_leaving_the_limit_alternate(
        samples in prop::collection::vec(80u64..110, 0..200)
    ) {
        let mut tracker = LevelTracker::new();
        let mut at_limit = false;
        for used in samples {
            for event in tracker.observe(Metric::Sessions, used, 100).unwrap() {
                match event {
                    CapacityEvent::LimitReached { .. } => {
                        prop_assert!(!at_limit);
                        at_limit = true;
                    }
                    CapacityEvent::LimitCleared { .. } => {
                        prop_assert!(at_limit);
                        at_limit = false;
                    }
                    CapacityEvent::LevelChanged { .. } => {}
                }
            }
        }
    }
}
