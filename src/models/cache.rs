//! The keys and values of all layers of a model.

use burn::tensor::DType;

use super::DecoderConfig;
use crate::backend::{Backend, KvCache, KvCacheShape, RotaryStep};

/// One [`KvCache`] a layer, and the left padding of the sequences in it.
#[derive(Clone, Debug)]
pub struct Cache<B: Backend> {
    layers: Vec<B::KvCache>,
    left_padding: Vec<usize>,
}

impl<B: Backend> Cache<B> {
    /// An empty cache for `left_padding.len()` sequences of at most `capacity` positions.
    pub fn new(
        config: &DecoderConfig,
        left_padding: &[usize],
        capacity: usize,
        dtype: DType,
        device: &B::Device,
    ) -> Self {
        let shape = KvCacheShape {
            batch: left_padding.len(),
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            capacity,
        };
        let layers = (0..config.layers).map(|_| B::KvCache::new(shape, dtype, device)).collect();
        Self { layers, left_padding: left_padding.to_vec() }
    }

    /// Positions held, padding included.
    pub fn len(&self) -> usize {
        // The last layer is the last to be written: what it holds, all hold.
        self.layers.last().map_or(0, KvCache::len)
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Positions it can hold.
    pub fn capacity(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.shape().capacity)
    }

    /// Sequences.
    pub fn batch(&self) -> usize {
        self.left_padding.len()
    }

    /// Padding positions at the front of each sequence.
    pub fn left_padding(&self) -> &[usize] {
        &self.left_padding
    }

    /// Forgets every position from `len` on.
    pub fn truncate(&mut self, len: usize) {
        for layer in &mut self.layers {
            layer.truncate(len);
        }
    }

    /// Bytes that all layers have written, see [`KvCache::bytes_written`].
    pub fn bytes_written(&self) -> u64 {
        self.layers.iter().map(KvCache::bytes_written).sum()
    }

    /// Tells the caches what comes next, see [`KvCache::prepare`].
    pub(super) fn prepare(&self, heads: usize, step: &RotaryStep<B>) {
        if let Some(layer) = self.layers.first() {
            layer.prepare(heads, step);
        }
    }

    /// The cache of one layer.
    pub(super) fn layer_mut(&mut self, layer: usize) -> &mut B::KvCache {
        &mut self.layers[layer]
    }
}
