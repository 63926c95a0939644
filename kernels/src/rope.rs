//! Rotary position embedding of queries and keys (Su et al., RoFormer, 2021), with the keys and
//! values written to their place in the cache.
//!
//! A pair `(a, b)` of a head turns by the angle of its position:
//! `(a · cos - b · sin, b · cos + a · sin)`.
//!
//! Buffers: q `[rows, heads · dim]`, k and v `[rows, kv_heads · dim]`, cosines and sines
//! `[1 or batch, len, dim / 2]`, `params`; q turned (as q), cache of keys, cache of values
//! (`[batch, kv_heads, capacity, dim]`). Rows are `batch · len`. A thread moves one pair.

use cubecl::prelude::*;
use half::f16;

use crate::{Kernel, Needs, common::Builder};

/// Threads in a cube.
pub const THREADS: u32 = 128;

/// The kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RopeAppend {
    /// Whether a pair is two neighbours; otherwise it is one value of each half of the head.
    pub adjacent: bool,
    /// Whether the cache holds f16 instead of f32.
    pub f16: bool,
}

/// The sizes of one launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Params {
    /// Sequences.
    pub batch: u32,
    /// New positions of each.
    pub len: u32,
    /// Query heads.
    pub heads: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// Head dimension.
    pub dim: u32,
    /// Positions that the cache has room for.
    pub capacity: u32,
    /// Where the first new position goes; from the end it goes on at the start (a ring).
    pub start: u32,
    /// Whether every sequence has its own angles.
    pub per_sequence: bool,
}

impl Params {
    /// As the kernel reads them.
    pub fn words(&self) -> Vec<u32> {
        vec![
            self.batch,
            self.len,
            self.heads,
            self.kv_heads,
            self.dim,
            self.capacity,
            self.start,
            self.per_sequence as u32,
        ]
    }

    /// Cubes of one launch.
    pub const fn cubes(&self) -> u32 {
        (self.batch * self.len * (self.heads + 2 * self.kv_heads) * (self.dim / 2))
            .div_ceil(THREADS)
    }
}

#[cube]
fn rope_append<C: Float>(
    q: &Array<f32>,
    k: &Array<f32>,
    v: &Array<f32>,
    cos: &Array<f32>,
    sin: &Array<f32>,
    params: &Array<u32>,
    q_out: &mut Array<f32>,
    cache_k: &mut Array<C>,
    cache_v: &mut Array<C>,
    #[comptime] adjacent: bool,
) {
    let batch = params[0] as usize;
    let len = params[1] as usize;
    let heads = params[2] as usize;
    let kv_heads = params[3] as usize;
    let dim = params[4] as usize;
    let capacity = params[5] as usize;
    let half = dim / 2;
    let all_heads = heads + 2 * kv_heads;

    let at = CUBE_POS * comptime!(THREADS as usize) + UNIT_POS_X as usize;
    if at < batch * len * all_heads * half {
        let pair = at % half;
        let head = (at / half) % all_heads;
        let row = at / (half * all_heads);
        let sequence = row / len;
        let position = row % len;

        let mut first = pair;
        let mut second = pair + half;
        if comptime!(adjacent) {
            first = pair * 2;
            second = pair * 2 + 1;
        }
        let mut angle = position * half + pair;
        if params[7] != 0 {
            angle += sequence * len * half;
        }
        let c = cos[angle];
        let s = sin[angle];
        if head < heads {
            let base = (row * heads + head) * dim;
            let a = q[base + first];
            let b = q[base + second];
            q_out[base + first] = a * c - b * s;
            q_out[base + second] = b * c + a * s;
        } else {
            let mut kv_head = head - heads;
            let is_key = kv_head < kv_heads;
            if !is_key {
                kv_head -= kv_heads;
            }
            let base = (row * kv_heads + kv_head) * dim;
            let slot = (params[6] as usize + position) % capacity;
            let place = ((sequence * kv_heads + kv_head) * capacity + slot) * dim;
            if is_key {
                let a = k[base + first];
                let b = k[base + second];
                cache_k[place + first] = C::cast_from(a * c - b * s);
                cache_k[place + second] = C::cast_from(b * c + a * s);
            } else {
                cache_v[place + first] = C::cast_from(v[base + first]);
                cache_v[place + second] = C::cast_from(v[base + second]);
            }
        }
    }
}

impl RopeAppend {
    pub(crate) fn name(self) -> String {
        let order = if self.adjacent { "adjacent" } else { "halves" };
        format!("rope_append_{order}_{}", if self.f16 { "f16" } else { "f32" })
    }

    pub(crate) fn needs(self) -> Needs {
        Needs { f16: self.f16, ..Needs::default() }
    }

    pub(crate) fn define(self) -> KernelDefinition {
        if self.f16 { self.define_as::<f16>() } else { self.define_as::<f32>() }
    }

    fn define_as<C: Float>(self) -> KernelDefinition {
        let mut b = Builder::new();
        let [q, k, v, cos, sin] = [(); 5].map(|()| b.input::<f32>());
        let (params, q_out) = (b.input::<u32>(), b.output::<f32>());
        let [cache_k, cache_v] = [(); 2].map(|()| b.output::<C>());
        rope_append::expand::<C>(
            &mut b.inner.scope,
            q.into(),
            k.into(),
            v.into(),
            cos.into(),
            sin.into(),
            params.into(),
            q_out.into(),
            cache_k.into(),
            cache_v.into(),
            self.adjacent,
        );
        b.finish(THREADS, &self.name())
    }
}

pub(crate) fn table() -> Vec<Kernel> {
    let mut all = Vec::new();
    for adjacent in [false, true] {
        for f16 in [false, true] {
            all.push(Kernel::RopeAppend(RopeAppend { adjacent, f16 }));
        }
    }
    all
}
