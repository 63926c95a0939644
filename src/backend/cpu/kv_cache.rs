//! The cache on the CPU: plain memory, written in place and read where it lies.

use burn::tensor::{DType, Tensor};

use super::{
    Cpu, attend,
    kernels::{AttentionShape, KvView},
    slices::Floats,
};
use crate::backend::{AttentionOptions, CacheError, KvCache, KvCacheShape, kv_cache::check_append};

/// Keys and values as `[batch, kv_heads, capacity, head_dim]` in f32. All of it is asked for at
/// once, but as zeroed memory, which operating systems back only where it is written: a long limit
/// costs nothing until it is used, and no position is ever moved.
#[derive(Clone, Debug)]
pub struct HostKvCache {
    shape: KvCacheShape,
    k: Vec<f32>,
    v: Vec<f32>,
    len: usize,
    written: u64,
}

impl HostKvCache {
    fn head_stride(&self) -> usize {
        self.shape.capacity * self.shape.head_dim
    }
}

impl KvCache<Cpu> for HostKvCache {
    /// The kernels read f32: the type asked for is that of the activations, which on this backend
    /// is always f32.
    fn new(shape: KvCacheShape, _dtype: DType, _device: &burn_flex::FlexDevice) -> Self {
        let values = shape.batch * shape.kv_heads * shape.capacity * shape.head_dim;
        Self { shape, k: vec![0.0; values], v: vec![0.0; values], len: 0, written: 0 }
    }

    fn full_bytes(shape: KvCacheShape, _dtype: DType) -> u64 {
        shape.bytes(shape.capacity, DType::F32)
    }

    fn shape(&self) -> KvCacheShape {
        self.shape
    }

    fn len(&self) -> usize {
        self.len
    }

    fn append(&mut self, k: Tensor<Cpu, 4>, v: Tensor<Cpu, 4>) -> Result<(), CacheError> {
        let new = check_append(&self.shape, self.len, &k, &v)?;
        let (stride, dim) = (self.head_stride(), self.shape.head_dim);
        for (values, rows) in [(&mut self.k, Floats::of(k)), (&mut self.v, Floats::of(v))] {
            if new == 0 {
                break;
            }
            for (head, rows) in values.chunks_mut(stride).zip(rows.as_slice().chunks(new * dim)) {
                head[self.len * dim..][..new * dim].copy_from_slice(rows);
            }
        }
        self.written += self.shape.bytes(new, DType::F32);
        self.len += new;
        Ok(())
    }

    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    fn attend(&self, q: Tensor<Cpu, 4>, options: &AttentionOptions) -> Tensor<Cpu, 4> {
        if self.len == 0 {
            return q.zeros_like();
        }
        let [_, heads, q_len, _] = q.dims();
        let KvCacheShape { batch, kv_heads, head_dim, .. } = self.shape;
        let shape = AttentionShape { batch, heads, kv_heads, q_len, kv_len: self.len, head_dim };
        let view = |data| KvView {
            data,
            batch_stride: kv_heads * self.head_stride(),
            head_stride: self.head_stride(),
            row_stride: head_dim,
        };
        attend(q, view(&self.k), view(&self.v), shape, options, None)
    }

    fn bytes_written(&self) -> u64 {
        self.written
    }
}
