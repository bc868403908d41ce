//! Runs of one kind beside runs of another, in pairs.
//!
//! Two runs minutes apart compare the machine with itself more than the code. Here every run has
//! one of the other kind right before or after it, ratios are taken per pair, and a [`Spread`]
//! shows their median with quartiles and extremes.

use std::fmt;

/// Runs both so many times, in turn (A B, B A, …), after a pair that warms up.
pub(crate) fn alternate<T>(
    pairs: usize,
    mut one: impl FnMut() -> T,
    mut other: impl FnMut() -> T,
) -> Vec<(T, T)> {
    let both = (0..=pairs).map(|pair| {
        if pair % 2 == 0 {
            let first = one();
            (first, other())
        } else {
            let first = other();
            (one(), first)
        }
    });
    both.skip(1).collect()
}

/// The extremes and the quartiles of some values.
pub(crate) struct Spread([f64; 5]);

impl Spread {
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.collect();
        values.sort_by(f64::total_cmp);
        Self([0, 1, 2, 3, 4].map(|quarter| values[(values.len() - 1) * quarter / 4]))
    }

    pub(crate) fn median(&self) -> f64 {
        self.0[2]
    }
}

/// The cells of a table: median, quartiles, extremes, with the digits that are asked for; the
/// alternate form leaves out the extremes.
impl fmt::Display for Spread {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [min, low, median, high, max] = self.0;
        let digits = out.precision().unwrap_or(3);
        write!(out, "{median:.digits$} | {low:.digits$}..{high:.digits$}")?;
        if out.alternate() {
            return Ok(());
        }
        write!(out, " | {min:.digits$}..{max:.digits$}")
    }
}
