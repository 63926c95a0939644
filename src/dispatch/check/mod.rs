//! Every kernel against plain loops in f64: what `doctor` runs on a user's device and the tests run
//! on every target.
//!
//! A [`Case`] is one launch with all its data and what must come out. It knows no device, so that
//! anything that can run a kernel can be checked with it.

mod cases;
mod noise;
mod reference;
mod report;
mod rotary;
mod waiting;

use half::f16;
use metal_candle_kernels::Kernel;

use super::{Kernels, LaunchError};

pub use cases::{cases, long_cases};
pub use report::{Family, Report};

/// A buffer of a launch.
#[derive(Clone, Debug)]
pub enum Buffer {
    /// Given to the kernel.
    Input(Vec<u8>),
    /// Written by it.
    Output(Expected),
    /// Given to it and written by it.
    Both(Vec<u8>, Expected),
}

/// What a kernel must write.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The values, in order. `NaN` stands for one that does not matter.
    pub values: Vec<f64>,
    /// Whether they are f16 instead of f32.
    pub f16: bool,
    /// The largest difference that may be, relative to the largest value (at least to `size`).
    pub tolerance: f64,
    /// How large values are when nothing cancels: a sum may be far smaller than what it is a sum
    /// of, and is no more exact for that.
    pub size: f64,
}

impl Expected {
    /// Bytes of the buffer.
    pub fn bytes(&self) -> usize {
        self.values.len() * if self.f16 { 2 } else { 4 }
    }

    /// The values in a buffer.
    pub fn decode(&self, bytes: &[u8]) -> Vec<f64> {
        if self.f16 {
            bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f64()).collect()
        } else {
            bytes
                .chunks_exact(4)
                .map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])))
                .collect()
        }
    }

    /// The largest difference from what was written, relative to the largest value (at least to
    /// `size`); infinite when
    /// something is not a number.
    pub fn error(&self, bytes: &[u8]) -> f64 {
        let got = self.decode(bytes);
        if got.len() != self.values.len() {
            return f64::INFINITY;
        }
        let largest =
            self.values.iter().filter(|v| !v.is_nan()).fold(self.size, |a, v| a.max(v.abs()));
        let worst = got
            .iter()
            .zip(&self.values)
            .filter(|(_, want)| !want.is_nan())
            .map(|(got, want)| if got.is_finite() { (got - want).abs() } else { f64::INFINITY })
            .fold(0.0, f64::max);
        let relative = worst / largest;
        if relative.is_nan() { f64::INFINITY } else { relative }
    }
}

/// One launch and what must come of it.
#[derive(Clone, Debug)]
pub struct Case {
    /// The kernel.
    pub kernel: Kernel,
    /// The sizes, for people.
    pub label: String,
    /// Cubes to launch.
    pub cubes: u32,
    /// Every buffer, in the kernel's order.
    pub buffers: Vec<Buffer>,
}

/// How a case went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The largest relative difference.
    pub error: f64,
    /// What it may be.
    pub tolerance: f64,
}

impl Outcome {
    /// Whether the difference is within the tolerance.
    pub fn passed(&self) -> bool {
        self.error <= self.tolerance
    }
}

impl Case {
    /// What the buffers hold before the launch: inputs, and bytes that are no number for outputs.
    pub fn before(&self) -> Vec<Vec<u8>> {
        self.buffers
            .iter()
            .map(|buffer| match buffer {
                Buffer::Input(bytes) | Buffer::Both(bytes, _) => bytes.clone(),
                Buffer::Output(expected) => vec![0xff; expected.bytes()],
            })
            .collect()
    }

    /// Compares what the buffers hold after the launch.
    pub fn judge(&self, after: &[Vec<u8>]) -> Outcome {
        let announced = self.kernel.announces();
        self.buffers
            .iter()
            .zip(after)
            .enumerate()
            .filter_map(|(place, (buffer, bytes))| match buffer {
                Buffer::Input(_) => None,
                Buffer::Output(expected) | Buffer::Both(_, expected) => {
                    let waits = announced.contains(&place) && !waiting::is_announced(bytes);
                    // Whoever waited for it would never go on.
                    let error = if waits { f64::INFINITY } else { expected.error(bytes) };
                    Some(Outcome { error, tolerance: expected.tolerance })
                }
            })
            // The worst of several outputs, each measured by its own tolerance.
            .max_by(|a, b| (a.error - a.tolerance).total_cmp(&(b.error - b.tolerance)))
            .unwrap_or(Outcome { error: f64::INFINITY, tolerance: 0.0 })
    }

    /// Runs it on a device.
    ///
    /// # Errors
    /// [`LaunchError`].
    pub fn run(&self, kernels: &Kernels) -> Result<Outcome, LaunchError> {
        let handles: Vec<_> = self.before().iter().map(|bytes| kernels.upload(bytes)).collect();
        let buffers: Vec<_> = handles.iter().collect();
        // SAFETY: a case states its own sizes.
        unsafe { kernels.launch_buffers(self.kernel, self.cubes, &buffers)? };
        let after: Result<Vec<_>, _> = handles
            .iter()
            .zip(&self.buffers)
            .map(|(handle, buffer)| match buffer {
                Buffer::Input(_) => Ok(Vec::new()),
                Buffer::Output(_) | Buffer::Both(..) => kernels
                    .download(handle.clone())
                    .map_err(|reason| LaunchError::Driver { kernel: self.kernel.name(), reason }),
            })
            .collect();
        Ok(self.judge(&after?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(values: &[f64], got: &[f32]) -> f64 {
        let expected = Expected { values: values.to_vec(), f16: false, tolerance: 0.0, size: 1.0 };
        expected.error(bytemuck::cast_slice(got))
    }

    #[test]
    fn errors_are_relative_and_never_overlooked() {
        assert!((error(&[4.0, -2.0], &[4.0, -1.0]) - 0.25).abs() < 1e-9);
        assert!(error(&[f64::NAN, 1.0], &[7.0, 1.0]) < 1e-9, "a value that does not matter");
        for (want, got) in [(1.0, f32::NAN), (1.0, f32::INFINITY), (f64::INFINITY, 1.0)] {
            assert!(error(&[want], &[got]).is_infinite());
        }
        assert!(error(&[1.0, 1.0], &[1.0]).is_infinite(), "too few values");
    }
}
