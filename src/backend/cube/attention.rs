//! Attention by kernels, over buffers of keys and values.

use std::sync::Arc;

use burn::tensor::{DType, Tensor};
use cubecl::server::Handle;
use metal_candle_kernels::{
    Kernel,
    attention::{self, Flash, Merge},
};

use super::{Cube, Gpu, tensors};
use crate::{
    backend::{AttentionOptions, KvCacheShape},
    dispatch::{Kernels, choose},
};

/// Query rows of a sequence up to which keys are split instead of rows.
const FEW_ROWS: usize = 8;

/// Hidden positions at the front of each sequence, as kernels read them.
pub(super) fn padding(options: &AttentionOptions) -> Vec<u32> {
    match &options.left_padding {
        Some(padding) => padding.iter().map(|&p| p as u32).collect(),
        None => vec![0],
    }
}

/// What attention is over.
#[derive(Debug)]
pub(super) struct Extent<'a> {
    pub(super) kernels: &'a Arc<Kernels>,
    pub(super) shape: KvCacheShape,
    pub(super) dtype: DType,
    /// Positions held.
    pub(super) len: usize,
}

impl Extent<'_> {
    /// The sizes, for the newest `rows` positions.
    pub(super) fn params(
        &self,
        rows: usize,
        heads: usize,
        options: &AttentionOptions,
    ) -> attention::Params {
        let KvCacheShape { batch, kv_heads, head_dim, capacity } = self.shape;
        let mut params = attention::Params {
            batch: batch as u32,
            len: rows as u32,
            heads: heads as u32,
            kv_heads: kv_heads as u32,
            keys: self.len as u32,
            capacity: capacity as u32,
            start: 0,
            splits: 1,
            scale: options.scale_for(head_dim),
            soft_cap: options.softcap.unwrap_or(0.0),
            // A window as long as everything hides nothing; 0 would mean that.
            window: options.window.map_or(0, |window| window.min(self.len).max(1) as u32),
            causal: options.causal,
            padded: options.left_padding.is_some(),
            angles_per_sequence: false,
        };
        if rows <= FEW_ROWS {
            params.splits = choose::splits(self.kernels, head_dim as u32, self.f16(), &params);
        }
        params
    }

    fn f16(&self) -> bool {
        self.dtype == DType::F16
    }

    /// Whether kernels take these query rows.
    fn takes(&self, rows: usize, heads: usize) -> bool {
        (1..=self.len).contains(&rows)
            && heads.is_multiple_of(self.shape.kv_heads)
            && matches!(self.dtype, DType::F32 | DType::F16)
    }

    /// The kernel that splits query rows, and its sizes; `None` where it does not take them.
    fn flash(
        &self,
        rows: usize,
        heads: usize,
        options: &AttentionOptions,
    ) -> Option<(Flash, attention::Params)> {
        let params = self.takes(rows, heads).then(|| self.params(rows, heads, options))?;
        let kernel = choose::flash(self.kernels, self.shape.head_dim as u32, self.f16(), &params)?;
        Some((kernel, params))
    }
}

/// What is turned and written to the cache in the launch that attends: see
/// [`attention::Decode::rotary`].
pub(super) struct Turning<'a> {
    pub(super) k: &'a Handle,
    pub(super) v: &'a Handle,
    pub(super) cos: &'a Handle,
    pub(super) sin: &'a Handle,
}

/// Keys and values where they lie: `[batch, kv_heads, capacity, head_dim]`.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) extent: Extent<'a>,
    pub(super) keys: &'a Handle,
    pub(super) values: &'a Handle,
}

impl Context<'_> {
    /// Attention of `q: [batch, rows, heads, head_dim]` in f32; the output as `q`. `None` where no
    /// kernel takes it.
    pub(super) fn attend(
        &self,
        q: &Handle,
        rows: usize,
        heads: usize,
        options: &AttentionOptions,
    ) -> Option<Handle> {
        if rows <= FEW_ROWS {
            let params = self.extent.params(rows, heads, options);
            return self.few_rows(q, None, params, options);
        }
        let [out, _] = self.many_rows(q, self.extent.flash(rows, heads, options)?, options)?;
        Some(out)
    }

    /// Keys split over cubes. If there is something to turn, `q` is not turned yet, and the newest
    /// position is not in the cache.
    pub(super) fn few_rows(
        &self,
        q: &Handle,
        turning: Option<&Turning>,
        params: attention::Params,
        options: &AttentionOptions,
    ) -> Option<Handle> {
        if !self.extent.takes(params.len as usize, params.heads as usize) {
            return None;
        }
        let Extent { kernels, shape, .. } = &self.extent;
        let dim = shape.head_dim as u32;
        let kernel = choose::decode(kernels, dim, self.extent.f16(), turning.is_some(), &params)?;
        let vectors = tensors::announced(kernels, (params.parts() * dim) as usize);
        let ends = tensors::announced(kernels, params.parts() as usize * 2);
        let padding = kernels.params(&padding(options));
        let mut inputs = vec![q];
        let mut outputs = vec![&vectors, &ends];
        if let Some(Turning { k, v, cos, sin }) = turning {
            inputs.extend([k, v, cos, sin]);
            outputs.extend([self.keys, self.values]);
        }
        inputs.extend([self.keys, self.values, &padding]);
        // SAFETY: the buffers have the extents that the parameters state.
        unsafe {
            kernels.launch(
                Kernel::Decode(kernel),
                kernel.cubes(&params),
                &inputs,
                params.words(),
                &outputs,
            )
        }
        .ok()?;
        if params.splits == 1 {
            return Some(vectors);
        }
        let merge = Merge { dim };
        let out = tensors::announced(kernels, (params.rows() * dim) as usize);
        // SAFETY: likewise.
        unsafe {
            kernels.launch(
                Kernel::Merge(merge),
                merge.cubes(&params),
                &[&vectors, &ends],
                params.words(),
                &[&out],
            )
        }
        .ok()?;
        Some(out)
    }

    /// Query rows split over cubes: the output, and the log-sum-exp of each row's scores
    /// `[batch, rows, heads]`.
    fn many_rows(
        &self,
        q: &Handle,
        (kernel, params): (Flash, attention::Params),
        options: &AttentionOptions,
    ) -> Option<[Handle; 2]> {
        let kernels = self.extent.kernels;
        let out = tensors::empty(kernels, (params.rows() * kernel.dim) as usize);
        let log_sums = tensors::empty(kernels, params.rows() as usize);
        let padding = kernels.params(&padding(options));
        // SAFETY: the buffers have the extents that the parameters state.
        unsafe {
            kernels.launch(
                Kernel::Flash(kernel),
                kernel.cubes(&params),
                &[q, self.keys, self.values, &padding],
                params.words(),
                &[&out, &log_sums],
            )
        }
        .ok()?;
        Some([out, log_sums])
    }
}

/// The result, and the log-sum-exp of each row.
type WithLse<R> = (Tensor<Cube<R>, 4>, Tensor<Cube<R>, 3>);

/// Attention over tensors, and the log-sum-exp of its scores: see
/// [`Backend::attention_with_lse`](crate::backend::Backend::attention_with_lse).
pub(super) fn with_lse<R: Gpu>(
    q: &Tensor<Cube<R>, 4>,
    k: &Tensor<Cube<R>, 4>,
    v: &Tensor<Cube<R>, 4>,
    options: &AttentionOptions,
) -> Option<WithLse<R>> {
    let ([batch, heads, rows, head_dim], [_, kv_heads, keys, _]) = (q.dims(), k.dims());
    if k.dtype() != v.dtype() || batch * heads * rows * kv_heads * keys == 0 {
        return None;
    }
    let device = q.device();
    let shape = KvCacheShape { batch, kv_heads, head_dim, capacity: keys };
    let extent = Extent { kernels: &R::kernels(&device), shape, dtype: k.dtype(), len: keys };
    // Before anything is copied.
    let flash = extent.flash(rows, heads, options)?;
    let by_row = tensors::contiguous(q.clone().cast(DType::F32).swap_dims(1, 2));
    let (keys_in, values) = (tensors::contiguous(k.clone()), tensors::contiguous(v.clone()));
    let context = Context { extent, keys: &keys_in.handle, values: &values.handle };
    let [out, log_sums] = context.many_rows(&by_row.handle, flash, options)?;
    let out = tensors::floats(&device, [batch, rows, heads, head_dim], out).swap_dims(1, 2);
    let log_sums = tensors::floats(&device, [batch, rows, heads], log_sums).swap_dims(1, 2);
    Some((out.cast(q.dtype()), log_sums))
}
