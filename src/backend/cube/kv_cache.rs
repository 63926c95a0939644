//! The cache on a GPU: one buffer of keys and one of values for a layer, written in place by the
//! kernel that turns the keys, and read in place by the attention kernels.

use std::sync::Arc;

use burn::tensor::{DType, Tensor};
use cubecl::server::Handle;
use metal_candle_kernels::{
    Kernel,
    attention::{Decode, Merge, Params},
    rope::{self, RopeAppend},
};

use super::{
    Cube, Gpu,
    attention::{self, Context, Extent, Turning},
    tensors,
};
use crate::{
    backend::{
        AttentionOptions, Backend, CacheError, KvCache, KvCacheShape, RopeOrder, RotaryStep,
        kv_cache::check_append,
    },
    dispatch::{Kernels, LaunchError, choose, gather},
};

/// Why attention is not by kernels.
const ATTENTION: &str = "head dimensions must be multiples of 8, or of 16 for more than 8 query rows, \
                         and at most 256";

/// Queries, keys and values of some rows.
type Projections<R> = [Tensor<Cube<R>, 2>; 3];
/// What attention makes of them.
type Attended<R> = Result<Tensor<Cube<R>, 2>, CacheError>;

/// Keys and values as `[batch, kv_heads, capacity, head_dim]`.
#[derive(Clone, Debug)]
pub struct CubeKvCache<R: Gpu> {
    shape: KvCacheShape,
    dtype: DType,
    device: R::Device,
    kernels: Arc<Kernels>,
    /// Taken at the first position. A clone shares them until one of both writes.
    buffers: Option<Arc<[Handle; 2]>>,
    len: usize,
    written: u64,
}

impl<R: Gpu> CubeKvCache<R> {
    fn bytes(&self) -> usize {
        self.shape.bytes(self.shape.capacity, self.dtype) as usize / 2
    }

    /// The buffers to write to: nobody else's.
    fn writable(&mut self) -> Arc<[Handle; 2]> {
        let buffers = match self.buffers.take() {
            Some(buffers) if Arc::strong_count(&buffers) == 1 => buffers,
            Some(shared) => Arc::new([0, 1].map(|i| self.copy_of(&shared[i]))),
            None => Arc::new([0, 1].map(|_| self.kernels.lasting(self.bytes()))),
        };
        self.buffers = Some(buffers.clone());
        buffers
    }

    fn extent(&self) -> [usize; 4] {
        let KvCacheShape { batch, kv_heads, head_dim, capacity } = self.shape;
        [batch, kv_heads, capacity, head_dim]
    }

    fn copy_of(&self, handle: &Handle) -> Handle {
        gather::submit();
        tensors::over::<R>(&self.device, &self.extent(), handle.clone(), self.dtype).copy().handle
    }

    /// What attention is over when so many positions are held.
    fn at(&self, len: usize) -> Extent<'_> {
        Extent { kernels: &self.kernels, shape: self.shape, dtype: self.dtype, len }
    }

    /// Attention of `q: [batch, rows, heads, dim]` in f32 over all that is held; the output as `q`.
    fn attend_rows(
        &self,
        q: &Handle,
        rows: usize,
        heads: usize,
        options: &AttentionOptions,
    ) -> Option<Handle> {
        let [keys, values] = &**self.buffers.as_ref()?;
        Context { extent: self.at(self.len), keys, values }.attend(q, rows, heads, options)
    }

    fn rope_params(
        &self,
        rows: usize,
        heads: usize,
        start: usize,
        per_sequence: bool,
    ) -> rope::Params {
        rope::Params {
            batch: self.shape.batch as u32,
            len: rows as u32,
            heads: heads as u32,
            kv_heads: self.shape.kv_heads as u32,
            dim: self.shape.head_dim as u32,
            capacity: self.shape.capacity as u32,
            start: start as u32,
            per_sequence,
        }
    }

    /// Turns queries and keys and writes keys and values; gives the turned queries.
    /// `buffers` are q, k, v, cosines and sines, `q_len` the values of q.
    fn rope_append(
        &mut self,
        buffers: [&Handle; 5],
        q_len: usize,
        params: rope::Params,
        order: RopeOrder,
    ) -> Result<Handle, LaunchError> {
        let f16 = self.dtype == DType::F16;
        let target = self.writable();
        let turned = tensors::empty(&self.kernels, q_len.max(1));
        let kernel = RopeAppend { adjacent: order == RopeOrder::AdjacentPairs, f16 };
        // SAFETY: the callers checked the shapes that the parameters state.
        unsafe {
            self.kernels.launch(
                Kernel::RopeAppend(kernel),
                params.cubes(),
                &buffers,
                params.words(),
                &[&turned, &target[0], &target[1]],
            )?;
        }
        self.written += self.shape.bytes(params.len as usize, self.dtype);
        self.len += params.len as usize;
        Ok(turned)
    }

    /// The sizes of attention that turns queries and the newest key, and writes it, in the same launch;
    /// `None` where it does not: it reads the cache before it, so that there must be something.
    fn params_of_one(&self, heads: usize, step: &RotaryStep<Cube<R>>) -> Option<(Decode, Params)> {
        let at_once = step.len == 1 && self.len > 0 && step.order == RopeOrder::HalfSplit;
        let angles_per_sequence = step.cos.dims()[0] > 1;
        let params = || self.at(self.len + 1).params(1, heads, &step.options);
        let params = at_once.then(|| Params { angles_per_sequence, ..params() })?;
        Some((self.kernel(true, &params)?, params))
    }

    /// The kernel of attention over the cache, that turns or does not.
    fn kernel(&self, rotary: bool, params: &Params) -> Option<Decode> {
        let (dim, f16) = (self.shape.head_dim as u32, self.dtype == DType::F16);
        choose::decode(&self.kernels, dim, f16, rotary, params)
    }

    /// Uploads what attention over the cache, and the launch that joins its parts, will ask for.
    fn prepare_attention(&self, kernel: Decode, params: &Params) {
        let merge = Kernel::Merge(Merge { dim: kernel.dim });
        let merge = (params.splits > 1).then_some(merge);
        for kernel in [Kernel::Decode(kernel)].into_iter().chain(merge) {
            let words = self.kernels.likely_params(kernel, params.words());
            self.kernels.passing_params(words);
        }
    }

    /// Rotation, cache and attention by kernels; the projections again where they do not take it.
    pub(super) fn rotary_attention(
        &mut self,
        projections: Projections<R>,
        step: &RotaryStep<Cube<R>>,
    ) -> Result<Attended<R>, Projections<R>> {
        let KvCacheShape { batch, kv_heads, head_dim, capacity } = self.shape;
        let [q, k, v] = &projections;
        let [rows, width] = q.dims();
        let (len, heads) = (step.len, width / head_dim);
        let expected = [rows, kv_heads * head_dim];
        if [q, k, v].iter().any(|t| t.dtype() != DType::F32)
            || step.batch != batch
            || rows != batch * len
            || k.dims() != expected
            || v.dims() != expected
            || !head_dim.is_multiple_of(2)
            || len == 0
        {
            return Err(projections);
        }
        if self.len + len > capacity {
            return Ok(Err(CacheError::Full { len: self.len, capacity, new: len }));
        }
        let [q, k, v] = projections.map(tensors::contiguous);
        let [cos, sin] = [&step.cos, &step.sin].map(|t| tensors::contiguous(t.clone()));
        if let Some((_, params)) = self.params_of_one(heads, step) {
            let target = self.writable();
            let context =
                Context { extent: self.at(self.len + 1), keys: &target[0], values: &target[1] };
            let [k, v, cos, sin] = [&k.handle, &v.handle, &cos.handle, &sin.handle];
            let turning = Turning { k, v, cos, sin };
            if let Some(out) = context.few_rows(&q.handle, Some(&turning), params, &step.options) {
                self.written += self.shape.bytes(1, self.dtype);
                self.len += 1;
                return Ok(Ok(tensors::floats(&self.device, [rows, width], out)));
            }
        }
        let per_sequence = step.cos.dims()[0] > 1;
        let params = self.rope_params(len, heads, self.len, per_sequence);
        let buffers = [&q.handle, &k.handle, &v.handle, &cos.handle, &sin.handle];
        let Ok(turned) = self.rope_append(buffers, rows * width, params, step.order) else {
            return Err([q, k, v].map(tensors::tensor));
        };
        if let Some(out) = self.attend_rows(&turned, len, heads, &step.options) {
            return Ok(Ok(tensors::floats(&self.device, [rows, width], out)));
        }
        super::ops::by_reference("attention", ATTENTION);
        let turned = tensors::floats(&self.device, [batch, len, heads, head_dim], turned);
        let out = self.attend_by_operations(turned.swap_dims(1, 2), &step.options);
        Ok(Ok(out.swap_dims(1, 2).reshape([rows, width])))
    }

    fn attend_by_operations(
        &self,
        q: Tensor<Cube<R>, 4>,
        options: &AttentionOptions,
    ) -> Tensor<Cube<R>, 4> {
        let Some(buffers) = &self.buffers else { return q.zeros_like() };
        let [k, v] = [0, 1].map(|i| {
            let handle = buffers[i].clone();
            tensors::positions(&self.device, self.extent(), self.len, handle, self.dtype)
        });
        Cube::<R>::scaled_dot_product_attention(q, k, v, options)
    }
}

impl<R: Gpu> KvCache<Cube<R>> for CubeKvCache<R> {
    fn new(shape: KvCacheShape, dtype: DType, device: &R::Device) -> Self {
        let kernels = R::kernels(device);
        Self { shape, dtype, device: device.clone(), kernels, buffers: None, len: 0, written: 0 }
    }

    fn shape(&self) -> KvCacheShape {
        self.shape
    }

    fn len(&self) -> usize {
        self.len
    }

    fn append(&mut self, k: Tensor<Cube<R>, 4>, v: Tensor<Cube<R>, 4>) -> Result<(), CacheError> {
        let new = check_append(&self.shape, self.len, &k, &v)?;
        if new == 0 {
            return Ok(());
        }
        // The kernel that turns keys, turning by nothing, and without queries.
        let KvCacheShape { batch, kv_heads, head_dim, .. } = self.shape;
        let flat = |t: Tensor<Cube<R>, 4>| {
            let flat = t.cast(DType::F32).swap_dims(1, 2);
            tensors::contiguous::<R, 2>(flat.reshape([batch * new, kv_heads * head_dim]))
        };
        let (k, v) = (flat(k), flat(v));
        let angles = [1, new, head_dim / 2];
        let cos =
            tensors::contiguous(Tensor::<Cube<R>, 3>::ones(angles, (&self.device, DType::F32)));
        let sin =
            tensors::contiguous(Tensor::<Cube<R>, 3>::zeros(angles, (&self.device, DType::F32)));
        let params = self.rope_params(new, 0, self.len, false);
        let buffers = [&k.handle, &k.handle, &v.handle, &cos.handle, &sin.handle];
        self.rope_append(buffers, 0, params, RopeOrder::HalfSplit)
            .map(|_| ())
            .map_err(|refusal| CacheError::Device { reason: refusal.to_string() })
    }

    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    fn attend(&self, q: Tensor<Cube<R>, 4>, options: &AttentionOptions) -> Tensor<Cube<R>, 4> {
        let [batch, heads, rows, dim] = q.dims();
        let dtype = q.dtype();
        if self.len == 0 {
            return q.zeros_like();
        }
        let by_row = tensors::contiguous(q.clone().cast(DType::F32).swap_dims(1, 2));
        if let Some(out) = self.attend_rows(&by_row.handle, rows, heads, options) {
            let out = tensors::floats(&self.device, [batch, rows, heads, dim], out);
            return out.swap_dims(1, 2).cast(dtype);
        }
        super::ops::by_reference("attention", ATTENTION);
        self.attend_by_operations(q, options)
    }

    fn prepare(&self, heads: usize, step: &RotaryStep<Cube<R>>) {
        self.kernels.params(&attention::padding(&step.options));
        if let Some((kernel, params)) = self.params_of_one(heads, step) {
            self.prepare_attention(kernel, &params);
            return;
        }
        let per_sequence = step.cos.dims()[0] > 1;
        let rope = self.rope_params(step.len, heads, self.len, per_sequence);
        self.kernels.passing_params(rope.words());
        let params = self.at(self.len + step.len).params(step.len, heads, &step.options);
        match self.kernel(false, &params) {
            Some(kernel) => self.prepare_attention(kernel, &params),
            None => self.kernels.passing_params(params.words()),
        }
    }

    fn bytes_written(&self) -> u64 {
        self.written
    }
}
