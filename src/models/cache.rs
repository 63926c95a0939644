//! The keys and values of all layers of a model.

use burn::tensor::DType;

use super::{DecoderConfig, ahead::NextStep};
use crate::backend::{Backend, KvCache, KvCacheShape, RotaryStep};

/// One [`KvCache`] a layer, and the left padding of the sequences in it.
#[derive(Debug)]
pub struct Cache<B: Backend> {
    layers: Vec<B::KvCache>,
    left_padding: Vec<usize>,
    /// The layers already count its position.
    pub(super) next: Option<NextStep<B>>,
    /// Whether steps can be listed before they are run, as far as is known.
    pub(super) looks_ahead: bool,
    /// What the layers count as written by steps that were not run.
    unwritten: u64,
}

/// Without the step that may be listed for the original.
impl<B: Backend> Clone for Cache<B> {
    fn clone(&self) -> Self {
        let (layers, left_padding) = (self.layers.clone(), self.left_padding.clone());
        let mut clone = Self { layers, left_padding, next: None, ..*self };
        clone.take_back(self.len(), self.next.as_ref().map_or(0, |next| next.bytes));
        clone
    }
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
        let left_padding = left_padding.to_vec();
        Self { layers, left_padding, next: None, looks_ahead: true, unwritten: 0 }
    }

    /// Positions held, padding included.
    pub fn len(&self) -> usize {
        // The last layer is the last to be written: what it holds, all hold.
        self.layers.last().map_or(0, KvCache::len) - usize::from(self.next.is_some())
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
        self.forget_next();
        self.take_back(len, 0);
    }

    /// Forgets every position from `len` on, of which so many bytes were never written.
    pub(super) fn take_back(&mut self, len: usize, unwritten: u64) {
        for layer in &mut self.layers {
            layer.truncate(len);
        }
        self.unwritten += unwritten;
    }

    /// Bytes that all layers have written, see [`KvCache::bytes_written`].
    pub fn bytes_written(&self) -> u64 {
        let counted: u64 = self.layers.iter().map(KvCache::bytes_written).sum();
        counted - self.unwritten - self.next.as_ref().map_or(0, |next| next.bytes)
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
