//! Round numbers and days for axes.

use chrono::{DateTime, Datelike, NaiveDate};

use crate::capacity::text::DAY_MS;

/// The top of an axis that holds `max`, and the steps on it: 1, 2 or 5 times a power of ten.
pub(super) fn round_steps(max: f64, steps_wanted: f64) -> (f64, Vec<f64>) {
    if !max.is_finite() || max <= 0.0 {
        return (1.0, vec![0.0]);
    }
    let rough = max / steps_wanted;
    let magnitude = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * magnitude)
        .find(|step| *step >= rough * 0.999)
        .unwrap_or(magnitude * 10.0);
    let count = (max / step).ceil() as usize;
    let steps = (0..=count).map(|index| index as f64 * step).collect();
    (count as f64 * step, steps)
}

/// Days to name between two times: at most about `wanted`, on round days of month or year.
pub(super) fn day_marks(first_ms: i64, last_ms: i64, wanted: i64) -> Vec<(i64, String)> {
    let days = (last_ms - first_ms) / DAY_MS;
    if days <= wanted * 14 {
        let step = (days / wanted).max(1);
        let start = first_ms.div_euclid(DAY_MS);
        return (start..=last_ms.div_euclid(DAY_MS))
            .step_by(usize::try_from(step).unwrap_or(1))
            .map(|day| (day * DAY_MS, named(day * DAY_MS, "%-d %b")))
            .filter(|(ms, _)| *ms >= first_ms)
            .collect();
    }
    let months = days / 30;
    let step = [1, 2, 3, 6, 12, 24, 60]
        .into_iter()
        .find(|s| months / s <= wanted)
        .unwrap_or(120);
    let format = if step >= 12 { "%Y" } else { "%b %Y" };
    month_starts(first_ms, last_ms)
        .filter(|date| (i64::from(date.year()) * 12 + i64::from(date.month0())) % step == 0)
        .map(|date| {
            let ms = date
                .and_time(chrono::NaiveTime::MIN)
                .and_utc()
                .timestamp_millis();
            (ms, named(ms, format))
        })
        .collect()
}

fn month_starts(first_ms: i64, last_ms: i64) -> impl Iterator<Item = NaiveDate> {
    let day = |ms| DateTime::from_timestamp_millis(ms).map(|time| time.date_naive());
    let first = day(first_ms).map(|date| date.year() * 12 + date.month0() as i32);
    let last = day(last_ms).map(|date| date.year() * 12 + date.month0() as i32);
    let months = first.zip(last).map(|(first, last)| first + 1..=last);
    months.into_iter().flatten().filter_map(|month| {
        NaiveDate::from_ymd_opt(month.div_euclid(12), month.rem_euclid(12) as u32 + 1, 1)
    })
}

fn named(ms: i64, format: &str) -> String {
    DateTime::from_timestamp_millis(ms)
        .map_or_else(String::new, |time| time.format(format).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_and_hold_the_maximum() {
        assert_eq!(
            round_steps(69.3e6, 4.0),
            (8e7, vec![0.0, 2e7, 4e7, 6e7, 8e7])
        );
        assert_eq!(round_steps(100.0, 2.0), (100.0, vec![0.0, 50.0, 100.0]));
        assert_eq!(round_steps(0.0, 4.0).0, 1.0);
        assert_eq!(round_steps(f64::NAN, 4.0).0, 1.0);
    }

    #[test]
    fn days_and_months_are_named_sparingly() {
        let first = 1_771_027_200_000;
        for days in [1, 5, 28, 90, 400, 3000] {
            let marks = day_marks(first, first + days * DAY_MS, 5);
            assert!(!marks.is_empty() && marks.len() <= 8, "{days}: {marks:?}");
            assert!(
                marks
                    .iter()
                    .all(|(ms, _)| (first..=first + days * DAY_MS).contains(ms))
            );
        }
        assert_eq!(
            day_marks(first, first + 90 * DAY_MS, 5)[0].1,
            "1 Mar 2026".replace("1 ", "")
        );
    }
}
