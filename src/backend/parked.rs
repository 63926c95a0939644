//! Tensors that wait in host memory, in the form from which a backend brings them back fastest.

use std::{fmt::Debug, sync::Arc};

use burn::tensor::{AllocationProperty, Bytes, Tensor, TensorData};

use super::Backend;

/// Tensors that wait: see [`Backend::park`].
pub trait Parked<B: Backend>: Debug + Send + Sync {
    /// All of them on a device, in their order.
    fn bring_back(&self, device: &B::Device) -> Vec<Tensor<B, 2>>;
}

/// Tensor by tensor: used where they lie, if the device's memory is the host's.
#[derive(Debug)]
struct OneByOne(Vec<TensorData>);

impl<B: Backend> Parked<B> for OneByOne {
    fn bring_back(&self, device: &B::Device) -> Vec<Tensor<B, 2>> {
        let back = |data: &TensorData| Tensor::from_data(data.clone(), (device, data.dtype));
        self.0.iter().map(back).collect()
    }
}

/// The default of [`Backend::park`].
pub(super) fn one_by_one<B: Backend>(tensors: Vec<TensorData>) -> Arc<dyn Parked<B>> {
    Arc::new(OneByOne(tensors.into_iter().map(shared).collect()))
}

/// The same bytes, counted by reference: what lies in host memory anyway is used where it is.
fn shared(mut data: TensorData) -> TensorData {
    struct Owner(Bytes);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    let owned = std::mem::replace(&mut data.bytes, Bytes::from_bytes_vec(Vec::new()));
    data.bytes =
        Bytes::from_shared(bytes::Bytes::from_owner(Owner(owned)), AllocationProperty::Other);
    data
}
