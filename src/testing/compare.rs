//! Where two snapshots differ, and by how much.

use thiserror::Error;

use super::{HostTensor, Snapshot, Tolerance, Tolerances, Value, Values};

/// How a snapshot differs from the one that is wanted. Its text fits on a page.
#[derive(Clone, Debug, Error, PartialEq)]
pub struct Mismatch {
    /// The tensors that differ: first those captured, in that order, so that the first is where
    /// things went wrong.
    pub differences: Vec<Difference>,
    /// How many tensors there are in either snapshot.
    pub tensors: usize,
}

/// A tensor that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Its name.
    pub tensor: String,
    /// In what it differs.
    pub kind: DifferenceKind,
}

/// In what a tensor differs.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum DifferenceKind {
    /// Values are out of tolerance.
    Values(OutOfTolerance),
    /// The shape is another one.
    Shape {
        /// What came.
        got: Vec<usize>,
        /// What was wanted.
        want: Vec<usize>,
    },
    /// Floats came for integers, or the other way round.
    Numbers {
        /// What came.
        got: &'static str,
        /// What was wanted.
        want: &'static str,
    },
    /// It was wanted but did not come.
    Missing {
        /// The shape wanted.
        want: Vec<usize>,
    },
    /// It came but was not wanted.
    Extra {
        /// The shape that came.
        got: Vec<usize>,
    },
    /// No tensor has the name that a tolerance was stated for.
    UnusedTolerance,
}

/// The values of a tensor that are out of tolerance.
#[derive(Clone, Debug, PartialEq)]
pub struct OutOfTolerance {
    /// Its shape.
    pub shape: Vec<usize>,
    /// The tolerance; integers have none.
    pub tolerance: Tolerance,
    /// How many values are out of it.
    pub count: usize,
    /// Of how many.
    pub of: usize,
    /// How many of them are NaN, in what came or in what was wanted.
    pub nan: usize,
    /// The first of them, row-major.
    pub first: Place,
    /// The one with the largest absolute difference; NaN is larger than any.
    pub largest: Place,
}

/// One value of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Where: one index for each dimension.
    pub index: Vec<usize>,
    /// What came.
    pub got: Value,
    /// What was wanted.
    pub want: Value,
}

impl Place {
    /// `|got - want|`.
    pub fn difference(&self) -> f64 {
        self.got.distance(self.want)
    }
}

/// Compares what came with what is wanted: the same names with the same shapes, and values within
/// the tolerance.
///
/// ```
/// use metal_candle::testing::{HostTensor, Snapshot, Tolerance, compare};
///
/// let mut want = Snapshot::new();
/// want.insert("x", HostTensor::floats([2, 2], vec![1.0, 2.0, 3.0, 4.0]));
/// let mut got = Snapshot::new();
/// got.insert("x", HostTensor::floats([2, 2], vec![1.0, 2.0, 3.5, 4.0]));
///
/// assert!(compare(&got, &want, Tolerance::absolute(0.5)).is_ok());
/// let mismatch = compare(&got, &want, Tolerance::absolute(1e-3)).unwrap_err();
/// assert_eq!(
///     mismatch.to_string(),
///     "1 of 1 tensors differs\n\
///      x [2, 2]: 1 of 4 values not within 1e-3\n\
///      \x20 at [1, 0]: got 3.5, want 3.0, off by 5.00e-1"
/// );
/// ```
///
/// # Errors
/// [`Mismatch`], with every tensor that differs.
pub fn compare(
    got: &Snapshot,
    want: &Snapshot,
    tolerances: impl Into<Tolerances>,
) -> Result<(), Mismatch> {
    compare_within(got, want, &tolerances.into())
}

pub(super) fn compare_within(
    got: &Snapshot,
    want: &Snapshot,
    tolerances: &Tolerances,
) -> Result<(), Mismatch> {
    let mut differences = Vec::new();
    let mut add = |tensor: &str, kind| {
        differences.push(Difference { tensor: tensor.to_owned(), kind });
    };
    let mut tensors = got.len();
    for (name, came) in got.iter() {
        let kind = match want.get(name) {
            None => Some(DifferenceKind::Extra { got: came.shape.clone() }),
            Some(wanted) => difference(came, wanted, tolerances.of(name, came)),
        };
        if let Some(kind) = kind {
            add(name, kind);
        }
    }
    for (name, wanted) in want.iter().filter(|(name, _)| got.get(name).is_none()) {
        tensors += 1;
        add(name, DifferenceKind::Missing { want: wanted.shape.clone() });
    }
    for name in tolerances.named() {
        if got.get(name).is_none() && want.get(name).is_none() {
            add(name, DifferenceKind::UnusedTolerance);
        }
    }
    if differences.is_empty() { Ok(()) } else { Err(Mismatch { differences, tensors }) }
}

fn difference(got: &HostTensor, want: &HostTensor, tolerance: Tolerance) -> Option<DifferenceKind> {
    if got.shape != want.shape {
        return Some(DifferenceKind::Shape { got: got.shape.clone(), want: want.shape.clone() });
    }
    let out = match (&got.values, &want.values) {
        (Values::Float(a), Values::Float(b)) => out_of_tolerance(
            a.iter()
                .zip(b)
                .map(|(&a, &b)| (Value::Float(a), Value::Float(b), tolerance.allows(a, b))),
            &got.shape,
            tolerance,
        ),
        (Values::Int(a), Values::Int(b)) => out_of_tolerance(
            a.iter().zip(b).map(|(&a, &b)| (Value::Int(a), Value::Int(b), a == b)),
            &got.shape,
            Tolerance::EXACT,
        ),
        (got, want) => {
            return Some(DifferenceKind::Numbers { got: got.kind(), want: want.kind() });
        }
    };
    out.map(DifferenceKind::Values)
}

/// Each pair comes with whether it is within the tolerance.
fn out_of_tolerance(
    pairs: impl ExactSizeIterator<Item = (Value, Value, bool)>,
    shape: &[usize],
    tolerance: Tolerance,
) -> Option<OutOfTolerance> {
    let of = pairs.len();
    let (mut count, mut nan) = (0, 0);
    let mut first = None;
    // With how it ranks: NaN above every number.
    let mut largest = None;
    for (at, (got, want, _)) in pairs.enumerate().filter(|(_, (.., within))| !within) {
        let no_number = is_nan(got) || is_nan(want);
        count += 1;
        nan += usize::from(no_number);
        let place = (at, got, want);
        first.get_or_insert(place);
        let rank = (no_number, if no_number { 0.0 } else { got.distance(want) });
        if largest.as_ref().is_none_or(|(highest, _)| rank > *highest) {
            largest = Some((rank, place));
        }
    }
    let place = |(at, got, want)| Place { index: index_of(at, shape), got, want };
    let (first, largest) = (place(first?), place(largest?.1));
    Some(OutOfTolerance { shape: shape.to_vec(), tolerance, count, of, nan, first, largest })
}

fn is_nan(value: Value) -> bool {
    matches!(value, Value::Float(value) if value.is_nan())
}

/// The indices of the `at`-th value, row-major.
pub(super) fn index_of(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (index, &len) in index.iter_mut().zip(shape).rev() {
        *index = at % len;
        at /= len;
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(values: &[f32]) -> Snapshot {
        let mut snapshot = Snapshot::new();
        snapshot.insert("x", HostTensor::floats([values.len()], values.to_vec()));
        snapshot
    }

    fn values(got: &[f32], want: &[f32], tolerance: Tolerance) -> OutOfTolerance {
        let mismatch = compare(&floats(got), &floats(want), tolerance).expect_err("it differs");
        match &mismatch.differences[..] {
            [Difference { kind: DifferenceKind::Values(out), .. }] => out.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_and_the_largest_are_found() {
        let out = values(&[1.0, 2.5, 0.0, 4.25], &[1.0, 2.0, 3.0, 4.0], Tolerance::absolute(0.3));
        assert_eq!((out.count, out.of, out.nan), (2, 4, 0));
        assert_eq!((&out.first.index[..], &out.largest.index[..]), (&[1][..], &[2][..]));
        assert_eq!(out.largest.difference().to_bits(), 3.0f64.to_bits());
        // The largest of those out of tolerance: the one of a million is far off, but within.
        let out = values(&[1e6, 1.0], &[1.001e6, 0.5], Tolerance::relative(0.01));
        assert_eq!((out.count, out.largest.index), (1, vec![1]));
    }

    #[test]
    fn nan_is_the_largest_difference() {
        let out = values(&[9.0, f32::NAN, f32::INFINITY], &[0.0, 0.0, 0.0], Tolerance::EXACT);
        assert_eq!((out.count, out.nan, out.largest.index), (3, 1, vec![1]));
        let out = values(&[f32::NAN], &[f32::NAN], Tolerance::absolute(1.0));
        assert_eq!((out.count, out.nan), (1, 1));
    }

    #[test]
    fn integers_must_be_equal() {
        let ints = |values: [i64; 2]| {
            let mut snapshot = Snapshot::new();
            snapshot.insert("ids", HostTensor::ints([2], values.to_vec()));
            snapshot
        };
        let wide = Tolerance::absolute(10.0);
        assert_eq!(compare(&ints([1, i64::MAX]), &ints([1, i64::MAX]), wide), Ok(()));
        let mismatch = compare(&ints([1, i64::MAX - 1]), &ints([1, i64::MAX]), wide);
        // These two are the same number in f64.
        let text = mismatch.expect_err("not equal").to_string();
        assert!(text.contains("1 of 2 values not equal"), "{text}");
        assert!(text.contains("got 9223372036854775806, want 9223372036854775807"), "{text}");
    }

    #[test]
    fn names_shapes_and_kinds_count() {
        let mut got = floats(&[1.0]);
        got.insert("y", HostTensor::floats([2, 1], vec![1.0, 2.0]));
        got.insert("z", HostTensor::ints([1], vec![1]));
        let mut want = Snapshot::new();
        want.insert("z", HostTensor::floats([1], vec![1.0]));
        want.insert("w", HostTensor::floats([3], vec![1.0; 3]));
        want.insert("y", HostTensor::floats([1, 2], vec![1.0, 2.0]));
        let tolerances = Tolerances::from(Tolerance::EXACT).tensor("v", Tolerance::EXACT);
        let mismatch = compare(&got, &want, tolerances).expect_err("all differ");
        let kinds: Vec<_> =
            mismatch.differences.iter().map(|d| (d.tensor.as_str(), d.kind.clone())).collect();
        assert_eq!(
            kinds,
            [
                ("x", DifferenceKind::Extra { got: vec![1] }),
                ("y", DifferenceKind::Shape { got: vec![2, 1], want: vec![1, 2] }),
                ("z", DifferenceKind::Numbers { got: "integers", want: "floats" }),
                ("w", DifferenceKind::Missing { want: vec![3] }),
                ("v", DifferenceKind::UnusedTolerance),
            ]
        );
        assert_eq!(mismatch.tensors, 4);
    }

    #[test]
    fn an_index_counts_every_dimension() {
        assert_eq!(index_of(0, &[2, 3, 4]), [0, 0, 0]);
        assert_eq!(index_of(23, &[2, 3, 4]), [1, 2, 3]);
        assert_eq!(index_of(17, &[2, 3, 4]), [1, 1, 1]);
        assert_eq!(index_of(0, &[]), [0usize; 0]);
    }
}
