//! A mean and how far it may be off.

/// A mean of values that come one after the other (Welford, 1962).
#[derive(Clone, Copy, Debug, Default)]
pub struct Mean {
    count: u64,
    average: f64,
    squares: f64,
}

impl Mean {
    /// Takes a value in.
    pub fn add(&mut self, value: f64) {
        self.count += 1;
        let before = value - self.average;
        self.average += before / self.count as f64;
        self.squares += before * (value - self.average);
    }

    /// How many values it is of.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The mean; 0 of nothing.
    pub fn value(&self) -> f64 {
        self.average
    }

    /// Its standard error: the deviation of the values over the root of their number; 0 of fewer
    /// than two.
    pub fn error(&self) -> f64 {
        if self.count < 2 {
            return 0.0;
        }
        (self.squares / (self.count - 1) as f64 / self.count as f64).sqrt()
    }
}

impl Extend<f64> for Mean {
    fn extend<T: IntoIterator<Item = f64>>(&mut self, values: T) {
        for value in values {
            self.add(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_error() {
        let mut mean = Mean::default();
        assert_eq!((mean.value(), mean.error()), (0.0, 0.0));
        mean.extend([2.0, 4.0, 4.0, 6.0]);
        assert_eq!((mean.count(), mean.value()), (4, 4.0));
        // Variance 8/3, over four values.
        assert!((mean.error() - (8.0_f64 / 12.0).sqrt()).abs() < 1e-12);
    }
}
