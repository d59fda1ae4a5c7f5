//! Quantiles of a few numbers.

/// The `fraction` quantile of `sorted` (ascending, finite), by linear interpolation; `None` of
/// nothing.
pub(crate) fn quantile(sorted: &[f64], fraction: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let position = fraction.clamp(0.0, 1.0) * last as f64;
    let below = position.floor() as usize;
    let low = *sorted.get(below)?;
    let high = *sorted.get(below + 1).unwrap_or(&low);
    Some(low + (high - low) * position.fract())
}

/// Means of every run of `length` neighbours; empty when there are fewer numbers or `length` is 0.
pub(crate) fn moving_means(values: &[f64], length: usize) -> Vec<f64> {
    if length == 0 {
        return Vec::new();
    }
    values
        .windows(length)
        .map(|run| run.iter().sum::<f64>() / length as f64)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate_between_neighbours() {
        let values = [1.0, 2.0, 3.0, 4.0, 5.0];
        for (fraction, expected) in [(0.0, 1.0), (0.5, 3.0), (0.1, 1.4), (0.9, 4.6), (1.0, 5.0)] {
            assert!((quantile(&values, fraction).unwrap() - expected).abs() < 1e-9);
        }
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[7.0], 0.9), Some(7.0));
    }

    #[test]
    fn moving_means_take_every_run_once() {
        assert_eq!(moving_means(&[0.0, 2.0, 4.0], 2), [1.0, 3.0]);
        assert!(moving_means(&[1.0], 2).is_empty());
        assert!(moving_means(&[1.0], 0).is_empty());
    }
}
