//! How far a value may be off.

use std::{collections::BTreeMap, fmt};

use super::{HostTensor, Target};

/// How far a float may be from the one that is wanted: `|got - want| <= absolute + relative · |want|`.
///
/// Equal values are always within, equal infinities too. An infinity is within of nothing else, and
/// NaN of nothing at all. Integers must be equal, whatever the tolerance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// In the tensor's own unit.
    pub absolute: f64,
    /// As a fraction of the wanted value.
    pub relative: f64,
}

impl Tolerance {
    /// Nothing but the same value.
    pub const EXACT: Self = Self::new(0.0, 0.0);

    /// Both parts.
    pub const fn new(absolute: f64, relative: f64) -> Self {
        Self { absolute, relative }
    }

    /// The same for values of any size.
    pub const fn absolute(absolute: f64) -> Self {
        Self::new(absolute, 0.0)
    }

    /// A fraction of the wanted value.
    pub const fn relative(relative: f64) -> Self {
        Self::new(0.0, relative)
    }

    /// Whether `got` may stand for `want`.
    #[allow(clippy::float_cmp)] // the same number is close enough, whatever the tolerance
    pub fn allows(self, got: f32, want: f32) -> bool {
        if got == want {
            return true;
        }
        // A relative part of infinity would allow everything.
        if !(got.is_finite() && want.is_finite()) {
            return false;
        }
        let (got, want) = (f64::from(got), f64::from(want));
        (got - want).abs() <= self.absolute + self.relative * want.abs()
    }
}

impl fmt::Display for Tolerance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { absolute, relative } = *self;
        match (absolute == 0.0, relative == 0.0) {
            (true, true) => f.write_str("equal"),
            (false, true) => write!(f, "within {absolute:e}"),
            (true, false) => write!(f, "within {relative:e} |want|"),
            (false, false) => write!(f, "within {absolute:e} + {relative:e} |want|"),
        }
    }
}

/// A [`Tolerance`] for all tensors, and others where that one does not do.
///
/// ```
/// use metal_candle::testing::{Target, Tolerance, Tolerances};
///
/// let tolerances = Tolerances::from(Tolerance::absolute(1e-5))
///     .tensor("logits", Tolerance::new(1e-4, 1e-5))
///     .half(Tolerance::absolute(2e-3))
///     .backend(Target::Candle, Tolerance::absolute(1e-4));
/// # let _ = tolerances;
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Tolerances {
    usual: Tolerance,
    half: Option<Tolerance>,
    by_tensor: BTreeMap<String, Tolerance>,
    by_backend: BTreeMap<Target, Tolerances>,
}

impl From<Tolerance> for Tolerances {
    fn from(usual: Tolerance) -> Self {
        Self { usual, half: None, by_tensor: BTreeMap::new(), by_backend: BTreeMap::new() }
    }
}

impl Tolerances {
    /// Another one for the tensor of that name. A name that no tensor has is a
    /// [`Mismatch`](super::Mismatch): it would silently be without effect.
    #[must_use]
    pub fn tensor(mut self, name: impl Into<String>, tolerance: Tolerance) -> Self {
        self.by_tensor.insert(name.into(), tolerance);
        self
    }

    /// Another one for tensors that a backend gave in f16 or bf16, unless the tensor has its own.
    #[must_use]
    pub fn half(mut self, tolerance: Tolerance) -> Self {
        self.half = Some(tolerance);
        self
    }

    /// Others on one backend. They stand instead of all the rest there.
    #[must_use]
    pub fn backend(mut self, target: Target, tolerances: impl Into<Self>) -> Self {
        self.by_backend.insert(target, tolerances.into());
        self
    }

    /// Those of a backend.
    pub(super) fn on(&self, target: Option<Target>) -> &Self {
        target.and_then(|target| self.by_backend.get(&target)).unwrap_or(self)
    }

    /// That of a tensor.
    pub(super) fn of(&self, name: &str, got: &HostTensor) -> Tolerance {
        let half = self.half.filter(|_| got.is_half());
        self.by_tensor.get(name).copied().or(half).unwrap_or(self.usual)
    }

    /// The names of tensors with a tolerance of their own.
    pub(super) fn named(&self) -> impl Iterator<Item = &str> {
        self.by_tensor.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_parts_count() {
        let tolerance = Tolerance::new(0.5, 0.25);
        for (got, want, allowed) in [
            (10.5, 8.0, true),
            (5.5, 8.0, true),
            (10.75, 8.0, false),
            (5.25, 8.0, false),
            (-10.5, -8.0, true),
            // The relative part is one of what is wanted, not of what came.
            (8.0, 11.0, true),
            (11.0, 8.0, false),
        ] {
            assert_eq!(tolerance.allows(got, want), allowed, "{got} for {want}");
        }
    }

    #[test]
    fn nothing_stands_for_nan_or_infinity() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        for tolerance in [Tolerance::EXACT, Tolerance::new(1e30, 1e30)] {
            for (got, want) in [(nan, nan), (nan, 1.0), (1.0, nan), (1.0, inf), (inf, 1.0)] {
                assert!(!tolerance.allows(got, want), "{got} for {want}");
            }
            assert!(tolerance.allows(inf, inf) && !tolerance.allows(-inf, inf));
        }
    }

    #[test]
    fn exact_is_equal() {
        assert!(Tolerance::EXACT.allows(0.0, -0.0));
        assert!(!Tolerance::EXACT.allows(1.0, 1.0 + f32::EPSILON));
    }

    #[test]
    fn the_narrowest_statement_counts() {
        use burn::tensor::DType;
        let [a, b, c, d] = [1.0, 2.0, 3.0, 4.0].map(Tolerance::absolute);
        let tolerances = Tolerances::from(a).tensor("x", b).half(c).backend(Target::Candle, d);
        let full = HostTensor::floats([1], vec![0.0]);
        let half = HostTensor { dtype: DType::F16, ..full.clone() };
        let on = |target| tolerances.on(target);
        assert_eq!(on(None).of("y", &full), a);
        assert_eq!(on(None).of("x", &full), b);
        assert_eq!(on(Some(Target::Cpu)).of("x", &half), b);
        assert_eq!(on(Some(Target::Cpu)).of("y", &half), c);
        assert_eq!(on(Some(Target::Candle)).of("x", &half), d);
    }

    #[test]
    fn it_reads_as_a_sentence() {
        assert_eq!(Tolerance::EXACT.to_string(), "equal");
        assert_eq!(Tolerance::absolute(1e-5).to_string(), "within 1e-5");
        assert_eq!(Tolerance::relative(2.5e-3).to_string(), "within 2.5e-3 |want|");
        assert_eq!(Tolerance::new(1e-5, 1e-3).to_string(), "within 1e-5 + 1e-3 |want|");
    }
}
