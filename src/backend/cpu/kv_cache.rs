//! The cache on the CPU: plain memory, written in place and read where it lies.

use burn::tensor::{DType, Tensor};

use super::{
    Cpu, attend,
    kernels::{AttentionShape, KvView},
    slices::Floats,
};
use crate::backend::{AttentionOptions, CacheError, KvCache, KvCacheShape, kv_cache::check_append};

/// Keys and values as `[batch, kv_heads, room, head_dim]` in f32. `room` grows by doubling up to
/// the capacity, so that a long limit costs no memory until it is used; what a growth moves is
/// counted as written.
#[derive(Clone, Debug)]
pub struct HostKvCache {
    shape: KvCacheShape,
    k: Vec<f32>,
    v: Vec<f32>,
    room: usize,
    len: usize,
    written: u64,
}

/// Positions that a cache has room for at first.
const FIRST_ROOM: usize = 256;

impl HostKvCache {
    fn head_stride(&self) -> usize {
        self.room * self.shape.head_dim
    }

    /// Makes room for `len` positions.
    fn grow(&mut self, len: usize) {
        if len <= self.room {
            return;
        }
        let room = len.max(self.room * 2).max(FIRST_ROOM).min(self.shape.capacity);
        let KvCacheShape { batch, kv_heads, head_dim, .. } = self.shape;
        let (from, to, held) = (self.head_stride(), room * head_dim, self.len * head_dim);
        for values in [&mut self.k, &mut self.v] {
            let mut grown = vec![0.0; batch * kv_heads * to];
            if from > 0 {
                for (old, new) in values.chunks(from).zip(grown.chunks_mut(to)) {
                    new[..held].copy_from_slice(&old[..held]);
                }
            }
            *values = grown;
        }
        self.written += self.shape.bytes(self.len, DType::F32);
        self.room = room;
    }
}

impl KvCache<Cpu> for HostKvCache {
    /// The kernels read f32: the type asked for is that of the activations, which on this backend
    /// is always f32.
    fn new(shape: KvCacheShape, _dtype: DType, _device: &burn_flex::FlexDevice) -> Self {
        Self { shape, k: Vec::new(), v: Vec::new(), room: 0, len: 0, written: 0 }
    }

    fn shape(&self) -> KvCacheShape {
        self.shape
    }

    fn len(&self) -> usize {
        self.len
    }

    fn append(&mut self, k: Tensor<Cpu, 4>, v: Tensor<Cpu, 4>) -> Result<(), CacheError> {
        let new = check_append(&self.shape, self.len, &k, &v)?;
        self.grow(self.len + new);
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
