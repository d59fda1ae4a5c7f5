use super::*;
use crate::capacity::quantity::{MB, Source};
use proptest::prelude::*;

/// 2026-02-14, noon.
const NOW_MS: i64 = 1_771_070_400_000;
const NOW_HOUR: i64 = NOW_MS / HOUR_MS;

fn hour(hours_ago: i64, raw_bytes: u64) -> HourGrowth {
    HourGrowth {
        hour: NOW_HOUR - hours_ago,
        messages: 1,
        raw_bytes,
        active_ms: HOUR_MS / 2,
    }
}

/// One entry a day, from `daily.len() - 1` days ago until today.
fn days(daily: &[u64]) -> Vec<HourGrowth> {
    let ago = |day: usize| (daily.len() - 1 - day) as i64 * 24 + 23;
    daily
        .iter()
        .enumerate()
        .filter(|(_, b)| **b > 0)
        .map(|(d, b)| hour(ago(d), *b))
        .collect()
}

fn input(hours: &[HourGrowth]) -> ForecastInput<'_> {
    ForecastInput {
        hours,
        first_hour: None,
        now_ms: NOW_MS,
        used_bytes: 500 * MB,
        free_bytes: 0,
        compactable_bytes: 0,
        limit_bytes: 1000 * MB,
        disk_free_bytes: None,
        uncompacted_ratio: Input::measured(Amount(1.0)),
        compacted_ratio: Input {
            value: Amount(0.1),
            source: Source::Measured,
        },
        raw_bytes_per_session_hour: Some(20.0 * MB as f64),
    }
}

fn projections(input: &ForecastInput<'_>) -> (Range, Projection, Projection) {
    match forecast(input).unwrap() {
        Forecast::Projected {
            daily_raw_bytes,
            without_compaction,
            with_compaction,
            ..
        } => (daily_raw_bytes, *without_compaction, *with_compaction),
        other => panic!("{other:?}"),
    }
}

fn days_until(when: When) -> f64 {
    match when {
        When::At { days, .. } => days,
        other => panic!("{other:?}"),
    }
}

#[test]
fn steady_growth_has_one_date_with_and_a_later_one_with_compaction() {
    let hours = days(&[10 * MB; 28]);
    let (pace, without, with) = projections(&input(&hours));
    assert!((pace.low - pace.high).abs() < 1.0, "{pace:?}");
    assert!((days_until(without.warning.likely) - 20.0).abs() < 1e-6);
    assert!((days_until(without.critical.likely) - 40.0).abs() < 1e-6);
    assert!((days_until(without.limit.likely) - 50.0).abs() < 1e-6);
    assert!((days_until(with.limit.likely) - 500.0).abs() < 1e-6);
    let When::At { unix_ms, .. } = without.limit.likely else {
        panic!()
    };
    assert_eq!(unix_ms, NOW_MS + 50 * DAY_MS);
    assert!((without.in_30_days_bytes.median - 800e6).abs() < 1.0);
}

#[test]
fn weekends_count_as_the_idle_days_they_are() {
    let week = [14 * MB, 14 * MB, 14 * MB, 14 * MB, 14 * MB, 0, 0];
    let hours = days(&week.repeat(4));
    let (pace, _, _) = projections(&input(&hours));
    assert!(
        (pace.low - 10e6).abs() < 1.0 && (pace.high - 10e6).abs() < 1.0,
        "{pace:?}"
    );
}

#[test]
fn quiet_and_busy_weeks_give_a_range_that_holds_the_average() {
    let hours = days(&[[2 * MB; 14], [20 * MB; 14]].concat());
    let (pace, without, _) = projections(&input(&hours));
    assert!(
        pace.low < pace.median && pace.median < pace.high,
        "{pace:?}"
    );
    assert!(pace.low < 11e6 && pace.high > 11e6);
    let limit = without.limit;
    assert!(days_until(limit.earliest) < days_until(limit.likely));
    assert!(days_until(limit.likely) < days_until(limit.latest));
}

#[test]
fn a_burst_on_any_day_moves_the_range_and_not_the_likely_date_however_short_the_history() {
    for length in HISTORY_DAYS_MIN..=WINDOW_DAYS {
        for burst in 0..length {
            let mut daily = vec![MB; length];
            daily[burst] = 2000 * MB;
            let (pace, _, _) = projections(&input(&days(&daily)));
            let told = format!("day {burst} of {length}: {pace:?}");
            assert!((pace.median - 1e6).abs() < 1.0, "{told}");
            assert!(pace.high > 70e6, "the average is within the range: {told}");
        }
    }
}

#[test]
fn a_burst_over_the_end_of_a_day_does_not_move_the_likely_date() {
    for length in 5..=WINDOW_DAYS {
        for burst in 1..length {
            let mut daily = vec![MB; length];
            daily[burst - 1..=burst].fill(1000 * MB);
            let (pace, _, _) = projections(&input(&days(&daily)));
            let told = format!("day {burst} of {length}: {pace:?}");
            assert!((pace.median - 1e6).abs() < 1.0, "{told}");
        }
    }
}

#[test]
fn little_history_is_answered_honestly() {
    for (hours, days_known) in [
        (vec![], 0),
        (vec![hour(0, MB)], 0),
        (vec![hour(23, MB)], 1),
        (days(&[MB; 2]), 2),
    ] {
        let Forecast::NotEnoughHistory { days, days_min, .. } = forecast(&input(&hours)).unwrap()
        else {
            panic!("{hours:?}")
        };
        assert_eq!((days, days_min), (days_known, HISTORY_DAYS_MIN));
    }
    assert!(matches!(
        forecast(&input(&days(&[MB; 3]))),
        Ok(Forecast::Projected { .. })
    ));
}

#[test]
fn a_first_hour_before_the_curve_counts_as_history() {
    let hours = vec![hour(0, 28 * MB)];
    let input = ForecastInput {
        first_hour: Some(NOW_HOUR - 24 * 100),
        ..input(&hours)
    };
    let Forecast::Projected {
        window_days,
        days_used,
        ..
    } = forecast(&input).unwrap()
    else {
        panic!()
    };
    assert_eq!((window_days, days_used), (WINDOW_DAYS, 1));
}

#[test]
fn a_day_of_work_is_one_day_also_where_a_span_ends_in_the_middle_of_it() {
    // Nine hours of each weekday, up to noon of a Saturday in one case, and of a Friday in the other.
    for (days_ago, used) in [(0, 20), (1, 20)] {
        let now_hour = NOW_HOUR - 24 * days_ago;
        let is_weekday = |day: i64| (day + 3).rem_euclid(7) < 5;
        let worked = (now_hour - 24 * 60..=now_hour).filter(|hour| {
            is_weekday(hour.div_euclid(24)) && (8..17).contains(&hour.rem_euclid(24))
        });
        let hours: Vec<_> = worked.map(|at| hour(NOW_HOUR - at, MB)).collect();
        let input = ForecastInput {
            now_ms: now_hour * HOUR_MS,
            ..input(&hours)
        };
        let Forecast::Projected { days_used, .. } = forecast(&input).unwrap() else {
            panic!()
        };
        assert_eq!(days_used, used, "{days_ago} days ago");
    }
}

#[test]
fn a_history_that_does_not_grow_never_reaches_its_limit() {
    let hours = vec![hour(24 * 200, 900 * MB)];
    let (_, without, with) = projections(&ForecastInput {
        // Half an hour of activity made 900 MB.
        raw_bytes_per_session_hour: Some(1800.0 * MB as f64),
        ..input(&hours)
    });
    assert_eq!(without.limit.likely, When::Never);
    assert_eq!(with.limit.earliest, When::Never);
    assert_eq!(without.start_bytes, 500 * MB);
    // Half of the room is 0.28 session-hours away.
    assert!((without.limit.session_hours.unwrap() - 500.0 / 1800.0).abs() < 1e-9);
}

#[test]
fn hours_in_the_future_and_before_2020_are_left_out_and_counted() {
    let mut hours = days(&[10 * MB; 28]);
    let expected = projections(&input(&hours));
    hours.push(hour(-5, 900 * MB));
    hours.push(hour(i64::MIN / 2 + NOW_HOUR, 900 * MB));
    hours.push(HourGrowth {
        hour: 0,
        ..hour(0, MB)
    });
    let Forecast::Projected { ignored_hours, .. } = forecast(&input(&hours)).unwrap() else {
        panic!()
    };
    assert_eq!(ignored_hours, 3);
    assert_eq!(projections(&input(&hours)), expected);
}

#[test]
fn a_threshold_behind_is_reached_and_the_limit_still_ahead() {
    let hours = days(&[10 * MB; 28]);
    let (_, without, with) = projections(&ForecastInput {
        used_bytes: 950 * MB,
        ..input(&hours)
    });
    assert_eq!(without.warning.likely, When::Reached);
    assert_eq!(without.critical.latest, When::Reached);
    assert!((days_until(without.limit.likely) - 5.0).abs() < 1e-6);
    assert_eq!(with.warning.session_hours, Some(0.0));
}

#[test]
fn free_pages_and_what_compaction_will_free_are_room() {
    let hours = days(&[10 * MB; 28]);
    let input = ForecastInput {
        free_bytes: 100 * MB,
        compactable_bytes: 300 * MB,
        ..input(&hours)
    };
    let (_, without, with) = projections(&input);
    assert_eq!(without.start_bytes, 400 * MB);
    assert_eq!(with.start_bytes, 100 * MB);
    assert!((days_until(without.limit.likely) - 60.0).abs() < 1e-6);
}

#[test]
fn a_disk_that_is_full_before_the_limit_has_a_date_of_its_own() {
    let hours = days(&[10 * MB; 28]);
    let disk_free = |bytes| ForecastInput {
        disk_free_bytes: Some(bytes),
        ..input(&hours)
    };
    let (_, without, with) = projections(&disk_free(100 * MB));
    let disk = without.disk.unwrap();
    assert_eq!((disk.bytes, without.end().bytes), (600 * MB, 600 * MB));
    assert!((days_until(disk.likely) - 10.0).abs() < 1e-6);
    assert!((days_until(with.end().likely) - 100.0).abs() < 1e-6);
    assert!((disk.session_hours.unwrap() - 5.0).abs() < 1e-9);
    assert_eq!(without.reaches().len(), 4);
    let (_, without, _) = projections(&disk_free(500 * MB));
    assert_eq!((without.disk, without.end().bytes), (None, 1000 * MB));
    let few = days(&[MB; 2]);
    let little = ForecastInput {
        disk_free_bytes: Some(100 * MB),
        ..input(&few)
    };
    let Forecast::NotEnoughHistory {
        session_hours_without_compaction: room,
        ..
    } = forecast(&little).unwrap()
    else {
        panic!()
    };
    assert!((room.unwrap() - 5.0).abs() < 1e-9);
}

#[test]
fn a_date_further_than_ten_years_is_not_told() {
    let hours = days(&[1; 28]);
    let (_, without, _) = projections(&input(&hours));
    assert_eq!(without.limit.likely, When::Beyond);
}

#[test]
fn a_limit_of_zero_is_refused() {
    let error = forecast(&ForecastInput {
        limit_bytes: 0,
        ..input(&[])
    })
    .unwrap_err();
    assert!(matches!(error, CapacityError::Zero { .. }), "{error}");
}

proptest! {
    /// Whatever the hours, the clock and the sizes: no panic, and the range is in order.
    #[test]
    fn any_history_gives_an_ordered_range(
        raw in prop::collection::vec((any::<i32>(), any::<u64>(), any::<i64>()), 0..60),
        now_ms in any::<i64>(), used in any::<u64>(), free in any::<u64>(), limit in 1u64..,
        recent in any::<bool>(),
    ) {
        let now_ms = if recent { NOW_MS } else { now_ms };
        let hours: Vec<HourGrowth> = raw
            .into_iter()
            .map(|(ago, raw_bytes, active_ms)| HourGrowth {
                hour: NOW_HOUR - i64::from(ago % 2000), messages: 1, raw_bytes, active_ms,
            })
            .collect();
        let input = ForecastInput {
            now_ms, used_bytes: used, free_bytes: free, limit_bytes: limit,
            disk_free_bytes: Some(free), ..input(&hours)
        };
        if let Forecast::Projected { daily_raw_bytes: pace, without_compaction, .. } =
            forecast(&input).unwrap()
        {
            prop_assert!(0.0 <= pace.low && pace.low <= pace.median && pace.median <= pace.high);
            prop_assert!(without_compaction.warning.bytes <= without_compaction.limit.bytes);
        }
    }
}
