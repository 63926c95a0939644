//! What a forward pass takes besides weights and cache, told from its extents.

/// The extents of a forward pass of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepShape {
    /// Rows of the stream: positions of all sequences that are run at once.
    pub rows: usize,
    /// Keys that a position sees at most.
    pub keys: usize,
    /// Width of the stream.
    pub hidden: usize,
    /// Width of the feed-forward block.
    pub intermediate: usize,
    /// Width of the queries: heads × head dimension.
    pub queries: usize,
    /// Width of the keys, and of the values: key/value heads × head dimension.
    pub kv: usize,
    /// Query heads.
    pub heads: usize,
    /// Tokens in the vocabulary.
    pub vocabulary: usize,
    /// Rows that logits are made for.
    pub logits: usize,
    /// Whether all matrices are packed.
    pub packed: bool,
}

impl StepShape {
    /// Values that live at once at the widest place of the pass. Beside the stream, that is what a
    /// norm reads and writes; or queries, their rotated copy and what attention makes of them, with
    /// keys and values; or gate, up and their product; or the logits.
    pub(crate) fn activations(&self) -> usize {
        let Self { rows, hidden, intermediate, queries, kv, vocabulary, logits, .. } = *self;
        let layer = (3 * hidden).max(3 * queries + 2 * kv).max(3 * intermediate);
        rows * hidden + (rows * layer).max(logits * vocabulary)
    }

    /// Values of the scores of attention where they are materialised, with their exponentials.
    pub(crate) fn scores(&self) -> usize {
        3 * self.heads * self.rows * self.keys
    }
}
