//! Tensors that wait in host memory: all of them behind each other, so that one transfer
//! brings them back, into one buffer.

use std::sync::Arc;

use burn::tensor::{DType, Tensor, TensorData};
use bytes::Bytes;

use super::{Cube, Gpu, tensors};
use crate::backend::Parked;

/// Where buffers may be bound.
const ALIGNMENT: usize = 256;

/// Tensors behind each other.
#[derive(Debug)]
pub(super) struct OneBuffer {
    bytes: Bytes,
    places: Vec<Place>,
}

#[derive(Debug)]
struct Place {
    first: usize,
    bytes: usize,
    shape: [usize; 2],
    dtype: DType,
}

impl OneBuffer {
    fn new(tensors: &[TensorData]) -> Self {
        let (mut all, mut places) = (Vec::new(), Vec::new());
        for data in tensors {
            let (first, bytes) = (all.len(), data.bytes.len());
            all.extend_from_slice(&data.bytes);
            all.resize(all.len().next_multiple_of(ALIGNMENT), 0);
            let shape = [data.shape[0], data.shape[1]];
            places.push(Place { first, bytes, shape, dtype: data.dtype });
        }
        Self { bytes: all.into(), places }
    }
}

impl<R: Gpu> Parked<Cube<R>> for OneBuffer {
    fn bring_back(&self, device: &R::Device) -> Vec<Tensor<Cube<R>, 2>> {
        let handle = R::kernels(device).upload_at_once(&self.bytes);
        let buffer = (&handle, self.bytes.len());
        let tensor = |place: &Place| {
            let bytes = place.first..place.first + place.bytes;
            tensors::piece(device, &place.shape, buffer, bytes, place.dtype)
        };
        self.places.iter().map(tensor).collect()
    }
}

/// [`Backend::park`](crate::backend::Backend::park).
pub(super) fn park<R: Gpu>(tensors: &[TensorData]) -> Arc<dyn Parked<Cube<R>>> {
    Arc::new(OneBuffer::new(tensors))
}
