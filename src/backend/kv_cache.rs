//! The cache of keys and values: what it must do, and a version in plain burn operations.

use burn::tensor::{DType, Tensor};
use thiserror::Error;

use super::attention::{self, Softmax};
use super::{AttentionOptions, Backend, RotaryStep};

/// Positions in one page of [`TensorKvCache`].
const PAGE: usize = 256;

/// The extent of one layer's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvCacheShape {
    /// Sequences.
    pub batch: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Head dimension.
    pub head_dim: usize,
    /// Positions that it can hold at most.
    pub capacity: usize,
}

impl KvCacheShape {
    /// Bytes of keys and values for `positions` positions in `dtype`.
    pub fn bytes(&self, positions: usize, dtype: DType) -> u64 {
        2 * (self.batch * self.kv_heads * self.head_dim * positions) as u64 * dtype.size() as u64
    }
}

/// Why keys and values could not be appended.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CacheError {
    /// There is no room for the new positions.
    #[error("the cache holds {len} of at most {capacity} positions: {new} more do not fit")]
    Full {
        /// Positions held.
        len: usize,
        /// Positions that fit.
        capacity: usize,
        /// Positions that should have been added.
        new: usize,
    },
    /// The new tensors do not belong into this cache.
    #[error("keys and values for the cache must be {expected}, found {found}")]
    Shape {
        /// The shape that fits, `[batch, kv_heads, positions, head_dim]`.
        expected: String,
        /// The shape given.
        found: String,
    },
    /// The device could not write them.
    #[error("keys and values could not be written to the cache: {reason}")]
    Device {
        /// The device's words.
        reason: String,
    },
}

/// Mutable storage for the keys and values of one layer.
pub trait KvCache<B: Backend>: Clone + Send + std::fmt::Debug + 'static {
    /// An empty cache. Memory may be taken as positions arrive.
    fn new(shape: KvCacheShape, dtype: DType, device: &B::Device) -> Self;

    /// Bytes of a cache of this extent when it is full.
    fn full_bytes(shape: KvCacheShape, dtype: DType) -> u64 {
        shape.bytes(shape.capacity, dtype)
    }

    /// The extent it was made with.
    fn shape(&self) -> KvCacheShape;

    /// Positions held.
    fn len(&self) -> usize;

    /// Whether it holds nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds positions: `k`, `v` are `[batch, kv_heads, positions, head_dim]`.
    ///
    /// # Errors
    /// [`CacheError`] when they do not fit; the cache is then as it was.
    fn append(&mut self, k: Tensor<B, 4>, v: Tensor<B, 4>) -> Result<(), CacheError>;

    /// Forgets every position from `len` on. Nothing is written.
    fn truncate(&mut self, len: usize);

    /// Attention of `q: [batch, heads, rows, head_dim]`, the newest rows, over all that is held.
    fn attend(&self, q: Tensor<B, 4>, options: &AttentionOptions) -> Tensor<B, 4>;

    /// Tells it what the next [`Backend::rotary_attention`] will bring, with `heads` query heads,
    /// before the step's first operation: whatever must be uploaded for it goes ahead of the work
    /// instead of interrupting it. The caches of all layers are alike, so one of them is told.
    fn prepare(&self, _heads: usize, _step: &RotaryStep<B>) {}

    /// Bytes that [`append`](Self::append) has written since the cache was made, counting whatever
    /// it had to rewrite. Per token, this must not grow with the positions held.
    fn bytes_written(&self) -> u64;
}

/// Checks what is to be appended, and gives the number of new positions.
pub(super) fn check_append<B: Backend>(
    shape: &KvCacheShape,
    len: usize,
    k: &Tensor<B, 4>,
    v: &Tensor<B, 4>,
) -> Result<usize, CacheError> {
    let [batch, kv_heads, new, head_dim] = k.dims();
    if [batch, kv_heads, head_dim] != [shape.batch, shape.kv_heads, shape.head_dim]
        || v.dims() != k.dims()
    {
        return Err(CacheError::Shape {
            expected: format!("[{}, {}, n, {}]", shape.batch, shape.kv_heads, shape.head_dim),
            found: format!("{:?} and {:?}", k.dims(), v.dims()),
        });
    }
    if len + new > shape.capacity {
        return Err(CacheError::Full { len, capacity: shape.capacity, new });
    }
    Ok(new)
}

/// A cache in pages of tensors, for backends whose tensors cannot be written through a reference.
///
/// burn's `slice_assign` writes in place where the backend finds that nobody else holds the tensor
/// (the cube backends), and copies the tensor elsewhere (candle). A page bounds that copy, so the
/// cost of a token depends on the page and never on the context; [`KvCache::bytes_written`] counts
/// whole pages for both. Attention takes the pages one by one: they are never joined.
#[derive(Clone, Debug)]
pub struct TensorKvCache<B: Backend> {
    shape: KvCacheShape,
    dtype: DType,
    device: B::Device,
    pages: Vec<[Tensor<B, 4>; 2]>,
    len: usize,
    written: u64,
}

impl<B: Backend> TensorKvCache<B> {
    fn page_len(&self) -> usize {
        PAGE.min(self.shape.capacity.max(1))
    }

    fn empty_page(&self) -> [Tensor<B, 4>; 2] {
        let KvCacheShape { batch, kv_heads, head_dim, .. } = self.shape;
        let shape = [batch, kv_heads, self.page_len(), head_dim];
        // Two tensors, not one and a clone of it: a clone shares its memory, and the first write
        // to each would copy it.
        [0, 1].map(|_| Tensor::zeros(shape, (&self.device, self.dtype)))
    }

    /// The pages in use, each cut to the positions it holds.
    fn filled(&self) -> impl Iterator<Item = (usize, [Tensor<B, 4>; 2])> + '_ {
        let page_len = self.page_len();
        self.pages
            .iter()
            .enumerate()
            .map(move |(i, page)| (self.len.saturating_sub(i * page_len).min(page_len), page))
            .take_while(|(rows, _)| *rows > 0)
            .map(move |(rows, [k, v])| {
                let cut = |t: &Tensor<B, 4>| {
                    if rows == page_len { t.clone() } else { t.clone().narrow(2, 0, rows) }
                };
                (rows, [cut(k), cut(v)])
            })
    }
}

impl<B: Backend> KvCache<B> for TensorKvCache<B> {
    fn new(shape: KvCacheShape, dtype: DType, device: &B::Device) -> Self {
        Self { shape, dtype, device: device.clone(), pages: Vec::new(), len: 0, written: 0 }
    }

    fn full_bytes(shape: KvCacheShape, dtype: DType) -> u64 {
        let page = PAGE.min(shape.capacity.max(1));
        shape.bytes(shape.capacity.next_multiple_of(page), dtype)
    }

    fn shape(&self) -> KvCacheShape {
        self.shape
    }

    fn len(&self) -> usize {
        self.len
    }

    fn append(&mut self, k: Tensor<B, 4>, v: Tensor<B, 4>) -> Result<(), CacheError> {
        let new = check_append(&self.shape, self.len, &k, &v)?;
        let page_len = self.page_len();
        let (k, v) = (k.cast(self.dtype), v.cast(self.dtype));
        let mut done = 0;
        while done < new {
            let (page, row) = (self.len / page_len, self.len % page_len);
            let rows = (page_len - row).min(new - done);
            // Taken out of the list, so that this is the only reference and the write can be in place.
            let [page_k, page_v] =
                if page < self.pages.len() { self.pages.remove(page) } else { self.empty_page() };
            let write = |into: Tensor<B, 4>, from: &Tensor<B, 4>| {
                let [batch, kv_heads, _, head_dim] = into.dims();
                let rows_of = from.clone().narrow(2, done, rows);
                into.slice_assign([0..batch, 0..kv_heads, row..row + rows, 0..head_dim], rows_of)
            };
            self.pages.insert(page, [write(page_k, &k), write(page_v, &v)]);
            self.written += self.shape.bytes(page_len, self.dtype);
            self.len += rows;
            done += rows;
        }
        Ok(())
    }

    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.pages.truncate(self.len.div_ceil(self.page_len()));
    }

    fn attend(&self, q: Tensor<B, 4>, options: &AttentionOptions) -> Tensor<B, 4> {
        let (dtype, [.., dim]) = (q.dtype(), q.dims());
        let raw: Vec<_> = self.filled().map(|(_, [k, _])| attention::scores(&q, &k)).collect();
        if raw.is_empty() {
            return q.zeros_like();
        }
        let raw = Tensor::cat(raw, 3);
        let Softmax { weights, sum, .. } = attention::softmax(raw, dim, options);
        let mut first = 0;
        let mut out: Option<Tensor<B, 4>> = None;
        for (rows, [_, v]) in self.filled() {
            let part = attention::weighted_values(&weights.clone().narrow(3, first, rows), &v);
            out = Some(match out {
                Some(out) => out + part,
                None => part,
            });
            first += rows;
        }
        match out {
            Some(out) => (out / sum).cast(dtype),
            None => q.zeros_like(),
        }
    }

    fn bytes_written(&self) -> u64 {
        self.written
    }
}
