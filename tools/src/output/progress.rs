//! Progress on a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What a bar counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes; the rate is shown.
    Bytes,
    /// Things.
    Count,
}

/// A bar on stderr, or nothing at all when nobody watches. It goes away when it is dropped.
pub struct Progress(ProgressBar);

impl Progress {
    pub(super) fn new(shown: bool, what: &'static str, total: u64, unit: Unit) -> Self {
        if !shown {
            return Self(ProgressBar::hidden());
        }
        let template = match unit {
            Unit::Bytes => {
                "{prefix:<10} [{bar:28}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}"
            }
            Unit::Count => "{prefix:<10} [{bar:28}] {human_pos}/{human_len} {eta}",
        };
        let style = ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        let bar =
            ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
        bar.set_style(style);
        bar.set_prefix(what);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    /// Says what is done at the moment.
    pub fn now(&self, what: &'static str) {
        if self.0.prefix() != what {
            self.0.set_prefix(what);
        }
    }

    /// Sets how far it is.
    pub fn at(&self, position: u64) {
        self.0.set_position(position);
    }

    /// Sets how far it is, and of how much, when that is learnt on the way.
    pub fn at_of(&self, position: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(position);
    }

    /// Goes further.
    pub fn add(&self, more: u64) {
        self.0.inc(more);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
