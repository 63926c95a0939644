//! Gradients over any backend, with custom backward steps for the fused operations.

use burn::tensor::{DType, Tensor, TensorPrimitive, ops::FloatTensor};
use burn_autodiff::{
    Autodiff, NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};

use super::{
    AttentionOptions, Backend, CacheError, HostPacked, KvCache, KvCacheShape, PackError, StepShape,
    ops,
};
use crate::quant::Encoding;

fn tensor<B: Backend, const D: usize>(primitive: FloatTensor<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

fn primitive<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> FloatTensor<B> {
    tensor.into_primitive().tensor()
}

impl<B: Backend, C: CheckpointStrategy> Backend for Autodiff<B, C> {
    type Packed = B::Packed;
    type KvCache = AutodiffKvCache<B>;

    /// The output carries gradients; the log-sum-exp does not (nothing downstream needs them).
    fn attention_with_lse(
        q: Tensor<Self, 4>,
        k: Tensor<Self, 4>,
        v: Tensor<Self, 4>,
        options: &AttentionOptions,
    ) -> (Tensor<Self, 4>, Tensor<Self, 3>) {
        let [q, k, v] = [q, k, v].map(primitive::<Self, 4>);
        let (out, lse) = B::attention_with_lse(
            tensor(q.primitive.clone()),
            tensor(k.primitive.clone()),
            tensor(v.primitive.clone()),
            options,
        );
        let lse_out = Tensor::from_inner(lse.clone());
        let (out, lse) = (primitive(out), primitive(lse));
        let nodes = [q.node.clone(), k.node.clone(), v.node.clone()];
        let out = match AttentionBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = AttentionState::<B> {
                    inputs: [prep.checkpoint(&q), prep.checkpoint(&k), prep.checkpoint(&v)],
                    out: out.clone(),
                    lse,
                    options: options.clone(),
                };
                prep.finish(state, out)
            }
            OpsKind::UnTracked(prep) => prep.finish(out),
        };
        (tensor(out), lse_out)
    }

    /// The inner backend's product, so that training computes as inference does.
    fn dense_linear(
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, 2> {
        let [x, weight] = [x, weight].map(primitive::<Self, 2>);
        let out = primitive(B::dense_linear(
            tensor(x.primitive.clone()),
            tensor(weight.primitive.clone()),
            None,
        ));
        let nodes = [x.node.clone(), weight.node.clone()];
        let out = match DenseLinearBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = [prep.checkpoint(&x), prep.checkpoint(&weight)];
                prep.finish(state, out)
            }
            OpsKind::UnTracked(prep) => prep.finish(out),
        };
        ops::add_bias(tensor(out), bias)
    }

    fn scratch_bytes(step: &StepShape) -> u64 {
        B::scratch_bytes(step)
    }

    fn keeps_packed(encoding: Encoding, shape: [usize; 2], device: &Self::Device) -> bool {
        B::keeps_packed(encoding, shape, device)
    }

    fn pack(weight: HostPacked, device: &Self::Device) -> Self::Packed {
        B::pack(weight, device)
    }

    fn packed_linear(
        x: Tensor<Self, 2>,
        weight: &Self::Packed,
        bias: Option<Tensor<Self, 1>>,
    ) -> Result<Tensor<Self, 2>, PackError> {
        let x = primitive(x);
        let out = primitive(B::packed_linear(tensor(x.primitive.clone()), weight, None)?);
        let out = match PackedLinearBackward::<B>(weight.clone())
            .prepare::<C>([x.node.clone()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish((), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        };
        Ok(ops::add_bias(tensor(out), bias))
    }

    fn packed_linear_backward(
        grad: Tensor<Self, 2>,
        weight: &Self::Packed,
    ) -> Result<Tensor<Self, 2>, PackError> {
        B::packed_linear_backward(grad.inner(), weight).map(Tensor::from_inner)
    }

    fn unpack(
        weight: &Self::Packed,
        device: &Self::Device,
        dtype: DType,
    ) -> Result<Tensor<Self, 2>, PackError> {
        B::unpack(weight, device, dtype).map(Tensor::from_inner)
    }

    fn packed_rows(
        weight: &Self::Packed,
        ids: &[u32],
        device: &Self::Device,
        dtype: DType,
    ) -> Result<Tensor<Self, 2>, PackError> {
        B::packed_rows(weight, ids, device, dtype).map(Tensor::from_inner)
    }
}

#[derive(Debug)]
struct AttentionBackward;

#[derive(Clone, Debug)]
struct AttentionState<B: Backend> {
    inputs: [NodeId; 3],
    out: FloatTensor<B>,
    lse: FloatTensor<B>,
    options: AttentionOptions,
}

impl<B: Backend> Backward<B, 3> for AttentionBackward {
    type State = AttentionState<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        let AttentionState { inputs, out, lse, options } = ops.state;
        let [q, k, v] = inputs
            .map(|id| tensor::<B, 4>(checkpointer.retrieve_node_output::<FloatTensor<B>>(id)));
        let inputs =
            B::attention_backward(q, k, v, tensor(out), tensor(lse), tensor(grad), &options);
        for (parent, grad) in ops.parents.into_iter().zip(inputs) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, primitive(grad));
            }
        }
    }
}

/// `y = x · wᵀ` gives `dx = dy · w` and `dw = dyᵀ · x`; both are products of the same kind.
#[derive(Debug)]
struct DenseLinearBackward;

impl<B: Backend> Backward<B, 2> for DenseLinearBackward {
    type State = [NodeId; 2];

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let grad = tensor::<B, 2>(grads.consume::<B>(&ops.node));
        let [x, weight] = ops
            .state
            .map(|id| tensor::<B, 2>(checkpointer.retrieve_node_output::<FloatTensor<B>>(id)));
        let [x_node, weight_node] = ops.parents;
        let dtype = weight.dtype();
        if let Some(node) = x_node {
            let dx = B::dense_linear(grad.clone(), weight.transpose(), None);
            grads.register::<B>(node.id, primitive(dx));
        }
        if let Some(node) = weight_node {
            let dw = B::dense_linear(grad.transpose(), x.transpose(), None).cast(dtype);
            grads.register::<B>(node.id, primitive(dw));
        }
    }
}

#[derive(Debug)]
struct PackedLinearBackward<B: Backend>(B::Packed);

impl<B: Backend> Backward<B, 1> for PackedLinearBackward<B> {
    type State = ();

    fn backward(self, ops: Ops<(), 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = tensor::<B, 2>(grads.consume::<B>(&ops.node));
        let [Some(parent)] = ops.parents else { return };
        // The forward product succeeded with the same weight; a backend that can only go forward
        // has no gradient to give, and burn's backward pass has no way to return an error.
        match B::packed_linear_backward(grad, &self.0) {
            Ok(grad) => grads.register::<B>(parent.id, primitive(grad)),
            Err(error) => panic!("backward of packed_linear: {error}"),
        }
    }
}

/// The inner backend's cache. What passes through it carries no gradients: caches are for
/// inference.
#[derive(Clone, Debug)]
pub struct AutodiffKvCache<B: Backend>(B::KvCache);

impl<B: Backend, C: CheckpointStrategy> KvCache<Autodiff<B, C>> for AutodiffKvCache<B> {
    fn new(shape: KvCacheShape, dtype: DType, device: &B::Device) -> Self {
        Self(B::KvCache::new(shape, dtype, device))
    }

    fn full_bytes(shape: KvCacheShape, dtype: DType) -> u64 {
        B::KvCache::full_bytes(shape, dtype)
    }

    fn shape(&self) -> KvCacheShape {
        self.0.shape()
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn append(
        &mut self,
        k: Tensor<Autodiff<B, C>, 4>,
        v: Tensor<Autodiff<B, C>, 4>,
    ) -> Result<(), CacheError> {
        self.0.append(k.inner(), v.inner())
    }

    fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    fn attend(
        &self,
        q: Tensor<Autodiff<B, C>, 4>,
        options: &AttentionOptions,
    ) -> Tensor<Autodiff<B, C>, 4> {
        Tensor::from_inner(B::attention_cached(q.inner(), &self.0, options))
    }

    fn bytes_written(&self) -> u64 {
        self.0.bytes_written()
    }
}
