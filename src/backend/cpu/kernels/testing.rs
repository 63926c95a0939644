//! Reproducible numbers and comparisons for the tests of the kernels.

/// A linear congruential generator (Knuth's MMIX constants).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Self(seed);
        random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// An integer below `bound`.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.next() as usize % bound
    }

    /// `count` values in -1..1.
    pub(super) fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| (self.next() as f64 / f64::from(1u32 << 30) - 1.0) as f32).collect()
    }
}

/// `|got - want| <= tolerance * max(1, greatest |want|)`, everywhere.
#[track_caller]
pub(super) fn assert_close(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let scale = want.iter().fold(1.0, |s: f64, w| s.max(w.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*got) - want).abs();
        assert!(error <= tolerance * scale, "{what}: at {i} got {got}, want {want}");
    }
}
