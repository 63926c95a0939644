//! burn-flex tensors as slices, and back.

use burn::tensor::{DType, Shape, Tensor, TensorPrimitive};
use burn_flex::{FlexTensor, Layout};
use half::f16;

use super::{Cpu, kernels::Weight};

/// The values of a tensor as one slice of f32: borrowed where they are that already.
pub(super) struct Floats(FlexTensor);

impl Floats {
    pub(super) fn of<const D: usize>(tensor: Tensor<Cpu, D>) -> Self {
        let tensor = if tensor.dtype() == DType::F32 { tensor } else { tensor.cast(DType::F32) };
        Self(contiguous(tensor))
    }

    pub(super) fn as_slice(&self) -> &[f32] {
        view(&self.0)
    }

    /// The values to work on: without a copy if nobody else holds the tensor.
    pub(super) fn into_vec(self) -> Vec<f32> {
        let elements = self.0.layout().num_elements();
        match self.0.into_data().into_vec::<f32>() {
            Ok(values) => values,
            Err(error) => unreachable!("{elements} f32 values cannot be taken out: {error:?}"),
        }
    }
}

/// The values of an f16 tensor as one slice.
pub(super) struct Halves(FlexTensor);

impl Halves {
    pub(super) fn of<const D: usize>(tensor: Tensor<Cpu, D>) -> Self {
        Self(contiguous(tensor))
    }

    pub(super) fn as_slice(&self) -> &[f16] {
        view(&self.0)
    }
}

/// A matrix in the type that a product reads it in.
pub(super) enum Stored {
    Floats(Floats),
    Halves(Halves),
}

impl Stored {
    /// Without a copy where it is f16 or f32.
    pub(super) fn of(matrix: Tensor<Cpu, 2>) -> Self {
        if matrix.dtype() == DType::F16 {
            Self::Halves(Halves::of(matrix))
        } else {
            Self::Floats(Floats::of(matrix))
        }
    }

    pub(super) fn weight(&self) -> Weight<'_> {
        match self {
            Self::Floats(values) => Weight::F32(values.as_slice()),
            Self::Halves(values) => Weight::F16(values.as_slice()),
        }
    }
}

fn contiguous<const D: usize>(tensor: Tensor<Cpu, D>) -> FlexTensor {
    let tensor = tensor.into_primitive().tensor();
    if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
}

fn view<E: burn::tensor::Element + bytemuck::Pod>(tensor: &FlexTensor) -> &[E] {
    match tensor.layout().contiguous_offsets() {
        Some((start, end)) => &tensor.storage::<E>()[start..end],
        None => unreachable!("made contiguous before"),
    }
}

/// A tensor of f32 values, converted to `dtype` if that is another type.
pub(super) fn tensor<const D: usize>(
    values: Vec<f32>,
    shape: [usize; D],
    dtype: DType,
) -> Tensor<Cpu, D> {
    let bytes = burn::tensor::Bytes::from_elems(values);
    let tensor = FlexTensor::new(bytes, Layout::contiguous(Shape::from(shape)), DType::F32);
    let tensor = Tensor::from_primitive(TensorPrimitive::Float(tensor));
    if dtype == DType::F32 { tensor } else { tensor.cast(dtype) }
}
