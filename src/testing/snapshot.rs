//! Named tensors on the host: what a capture comes to, and what a golden file holds.

use std::fmt;

use burn::tensor::{BasicOps, DType, Tensor, TensorData, backend::Backend};

/// The values of a tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Floats of any width; f64 is rounded to f32.
    Float(Vec<f32>),
    /// Integers of any width, and booleans as 0 and 1.
    Int(Vec<i64>),
}

/// One of [`Values`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A float.
    Float(f32),
    /// An integer.
    Int(i64),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // As short as it can be and still be this number.
            Self::Float(value) => write!(f, "{value:?}"),
            Self::Int(value) => write!(f, "{value}"),
        }
    }
}

impl Value {
    /// `|self - other|`, in f64.
    pub(super) fn distance(self, other: Self) -> f64 {
        let float = |value| match value {
            Self::Float(value) => f64::from(value),
            Self::Int(value) => value as f64,
        };
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => a.abs_diff(b) as f64,
            (a, b) => (float(a) - float(b)).abs(),
        }
    }
}

impl Values {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Float(values) => values.len(),
            Self::Int(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What kind of number they are, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Float(_) => "floats",
            Self::Int(_) => "integers",
        }
    }
}

/// A tensor on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    pub(super) shape: Vec<usize>,
    pub(super) values: Values,
    /// As the backend gave it.
    pub(super) dtype: DType,
}

impl HostTensor {
    /// Floats in rows of `shape`.
    ///
    /// # Panics
    /// When there are more or fewer values than the shape has room for.
    #[track_caller]
    pub fn floats(shape: impl Into<Vec<usize>>, values: Vec<f32>) -> Self {
        Self::new(shape.into(), Values::Float(values), DType::F32)
    }

    /// Integers in rows of `shape`.
    ///
    /// # Panics
    /// As [`floats`](Self::floats).
    #[track_caller]
    pub fn ints(shape: impl Into<Vec<usize>>, values: Vec<i64>) -> Self {
        Self::new(shape.into(), Values::Int(values), DType::I64)
    }

    #[track_caller]
    fn new(shape: Vec<usize>, values: Values, dtype: DType) -> Self {
        let (room, len) = (shape.iter().product::<usize>(), values.len());
        assert_eq!(len, room, "a tensor of shape {shape:?} takes {room} values, not {len}");
        Self { shape, values, dtype }
    }

    /// Slowest dimension first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The values, row-major.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// Whether a backend gave it in 16 bits.
    pub(super) fn is_half(&self) -> bool {
        matches!(self.dtype, DType::F16 | DType::BF16)
    }
}

impl From<TensorData> for HostTensor {
    fn from(data: TensorData) -> Self {
        let values = if data.dtype.is_float() {
            Values::Float(data.iter::<f32>().collect())
        } else {
            Values::Int(data.iter::<i64>().collect())
        };
        Self { shape: data.shape.to_vec(), values, dtype: data.dtype }
    }
}

impl<B: Backend, const D: usize, K: BasicOps<B>> From<&Tensor<B, D, K>> for HostTensor {
    /// Waits for the device.
    fn from(tensor: &Tensor<B, D, K>) -> Self {
        tensor.to_data().into()
    }
}

/// Named tensors, in the order in which they were captured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    tensors: Vec<(String, HostTensor)>,
}

impl Snapshot {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tensor.
    ///
    /// # Panics
    /// When a tensor of this name is there already, or the name is empty or `__metadata__`, which
    /// safetensors keeps for itself.
    #[track_caller]
    pub fn insert(&mut self, name: impl Into<String>, tensor: impl Into<HostTensor>) {
        let name = name.into();
        assert!(!name.is_empty() && name != "__metadata__", "no tensor can be called {name:?}");
        assert!(self.get(&name).is_none(), "tensor {name:?} is captured twice");
        self.tensors.push((name, tensor.into()));
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&HostTensor> {
        self.iter().find(|(other, _)| *other == name).map(|(_, tensor)| tensor)
    }

    /// Names and tensors.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &HostTensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Bool, Int};

    use super::*;
    use crate::backend::{Candle, Cpu};

    #[test]
    fn tensors_of_every_kind_arrive() {
        fn check<B: crate::Backend>() {
            let device = B::Device::default();
            let floats: Tensor<B, 2> = Tensor::from_data([[1.5, -2.0], [0.25, 3.0]], &device);
            let want = vec![1.5, -2.0, 0.25, 3.0];
            for dtype in [DType::F32, DType::F16] {
                let host = HostTensor::from(&floats.clone().cast(dtype));
                assert_eq!(
                    (host.shape(), host.values()),
                    (&[2, 2][..], &Values::Float(want.clone()))
                );
                assert_eq!(host.is_half(), dtype == DType::F16);
            }
            let ints: Tensor<B, 1, Int> = Tensor::from_data([3, -1], &device);
            assert_eq!(HostTensor::from(&ints).values(), &Values::Int(vec![3, -1]));
            let bools: Tensor<B, 1, Bool> = ints.greater_elem(0);
            assert_eq!(HostTensor::from(&bools).values(), &Values::Int(vec![1, 0]));
        }
        check::<Cpu>();
        check::<Candle>();
    }

    #[test]
    #[should_panic(expected = "tensor \"x\" is captured twice")]
    fn a_name_is_used_once() {
        let mut snapshot = Snapshot::new();
        snapshot.insert("x", HostTensor::ints([1], vec![1]));
        snapshot.insert("x", HostTensor::ints([1], vec![1]));
    }

    #[test]
    #[should_panic(expected = "no tensor can be called \"__metadata__\"")]
    fn safetensors_keeps_a_name_for_itself() {
        Snapshot::new().insert("__metadata__", HostTensor::ints([1], vec![1]));
    }

    #[test]
    #[should_panic(expected = "shape [2, 3] takes 6 values, not 5")]
    fn values_fill_the_shape() {
        HostTensor::floats([2, 3], vec![0.0; 5]);
    }
}
