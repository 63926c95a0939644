//! A mismatch as text.

use std::fmt;

use super::{Difference, DifferenceKind, Mismatch, OutOfTolerance, Place};

/// How many tensors are told of; the first matter most.
const TOLD: usize = 16;

/// What stands between the lines of a tensor and the margin.
const INDENT: &str = "\n  ";

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { differences, tensors } = self;
        let unused = |d: &&Difference| d.kind == DifferenceKind::UnusedTolerance;
        let differ = differences.len() - differences.iter().filter(unused).count();
        let verb = if differ == 1 { "differs" } else { "differ" };
        write!(f, "{differ} of {tensors} tensors {verb}")?;
        for difference in differences.iter().take(TOLD) {
            f.write_str("\n")?;
            tell(f, difference)?;
        }
        match differences.len().saturating_sub(TOLD) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

fn tell(f: &mut fmt::Formatter<'_>, difference: &Difference) -> fmt::Result {
    // Names may come out of a file.
    let name = difference.tensor.escape_debug();
    match &difference.kind {
        DifferenceKind::Values(out) => {
            let OutOfTolerance { shape, tolerance, count, of, nan, first, largest } = out;
            write!(f, "{name} {shape:?}: {count} of {of} values not {tolerance}")?;
            if *nan > 0 {
                write!(f, ", {nan} of them NaN")?;
            }
            if first.index == largest.index {
                write!(f, "{INDENT}at {}", Told(first))
            } else {
                write!(f, "{INDENT}most at {}{INDENT}first at {}", Told(largest), Told(first))
            }
        }
        DifferenceKind::Shape { got, want } => {
            write!(f, "{name}: got shape {got:?}, want {want:?}")
        }
        DifferenceKind::Numbers { got, want } => write!(f, "{name}: got {got}, want {want}"),
        DifferenceKind::Missing { want } => write!(f, "{name} {want:?}: missing"),
        DifferenceKind::Extra { got } => write!(f, "{name} {got:?}: captured, but not wanted"),
        DifferenceKind::UnusedTolerance => {
            write!(f, "{name}: has a tolerance, but no tensor has this name")
        }
    }
}

struct Told<'a>(&'a Place);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { index, got, want } = self.0;
        write!(f, "{index:?}: got {got}, want {want}, off by {:.2e}", self.0.difference())
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{HostTensor, Snapshot, Tolerance, Tolerances, compare};

    #[test]
    fn every_kind_of_difference_is_told() {
        let mut want = Snapshot::new();
        want.insert("hidden", HostTensor::floats([2, 2, 2], vec![0.1; 8]));
        want.insert("scores", HostTensor::floats([3], vec![1.0, 2.0, 3e-7]));
        want.insert("ids", HostTensor::ints([2, 2], vec![1, 2, 3, 4]));
        want.insert("mask", HostTensor::ints([2], vec![0, 1]));
        want.insert("weights", HostTensor::floats([2, 3], vec![0.0; 6]));
        want.insert("logits", HostTensor::floats([1, 2], vec![0.0; 2]));
        let mut got = Snapshot::new();
        got.insert("hidden", HostTensor::floats([2, 2, 2], vec![0.1; 8]));
        got.insert("scores", HostTensor::floats([3], vec![1.0, 2.125, f32::NAN]));
        got.insert("ids", HostTensor::ints([2, 2], vec![1, 2, 3, 7]));
        got.insert("mask", HostTensor::floats([2], vec![0.0, 1.0]));
        got.insert("weights", HostTensor::floats([3, 2], vec![0.0; 6]));
        got.insert("new\nline", HostTensor::floats([2], vec![0.0; 2]));
        let tolerances =
            Tolerances::from(Tolerance::new(1e-5, 1e-3)).tensor("typo", Tolerance::EXACT);
        let text = compare(&got, &want, tolerances).expect_err("they differ").to_string();
        assert_eq!(
            text,
            "6 of 7 tensors differ\n\
             scores [3]: 2 of 3 values not within 1e-5 + 1e-3 |want|, 1 of them NaN\n\
             \x20 most at [2]: got NaN, want 3e-7, off by NaN\n\
             \x20 first at [1]: got 2.125, want 2.0, off by 1.25e-1\n\
             ids [2, 2]: 1 of 4 values not equal\n\
             \x20 at [1, 1]: got 7, want 4, off by 3.00e0\n\
             mask: got floats, want integers\n\
             weights: got shape [3, 2], want [2, 3]\n\
             new\\nline [2]: captured, but not wanted\n\
             logits [1, 2]: missing\n\
             typo: has a tolerance, but no tensor has this name"
        );
    }

    #[test]
    fn a_report_fits_on_a_page() {
        let mut got = Snapshot::new();
        for layer in 0..200 {
            got.insert(format!("layer.{layer}"), HostTensor::floats([1], vec![1.0]));
        }
        let text =
            compare(&got, &Snapshot::new(), Tolerance::EXACT).expect_err("extra").to_string();
        assert!(
            text.starts_with("200 of 200 tensors differ\nlayer.0 [1]: captured, but not wanted\n")
        );
        assert!(text.ends_with("layer.15 [1]: captured, but not wanted\nand 184 more"), "{text}");
    }
}
