//! Which keys a query sees: always a range, whatever the combination of causality, window and padding.

use super::{AttentionOptions, AttentionShape};
use std::ops::Range;

/// The visibility rules of one sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mask {
    padding: usize,
    kv_len: usize,
    q_len: usize,
    causal: bool,
    window: Option<usize>,
}

impl Mask {
    pub(super) fn new(
        shape: &AttentionShape,
        options: &AttentionOptions<'_>,
        batch: usize,
    ) -> Self {
        Self {
            padding: options.left_padding.map_or(0, |p| p[batch]),
            kv_len: shape.kv_len,
            q_len: shape.q_len,
            causal: options.causal,
            window: options.window,
        }
    }

    /// The keys that query `query` sees; possibly none, then as `0..0`.
    pub(super) fn visible(&self, query: usize) -> Range<usize> {
        // One past the query's position, or zero where that is before the first key.
        let after = (self.kv_len + query + 1).saturating_sub(self.q_len);
        let end = if self.causal { after.min(self.kv_len) } else { self.kv_len };
        let start = self.window.map_or(0, |window| after.saturating_sub(window)).max(self.padding);
        if start < end { start..end } else { 0..0 }
    }

    /// The smallest range that holds what any of `queries` sees.
    pub(super) fn visible_to_any(&self, queries: Range<usize>) -> Range<usize> {
        let ranges = queries.map(|query| self.visible(query)).filter(|range| !range.is_empty());
        ranges.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).unwrap_or(0..0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_the_rules() {
        for (q_len, kv_len) in [(1, 5), (5, 5), (7, 5), (3, 10)] {
            for causal in [false, true] {
                for window in [None, Some(0), Some(1), Some(3), Some(20)] {
                    for padding in [0, 2, 5, 9] {
                        let mask = Mask { padding, kv_len, q_len, causal, window };
                        for query in 0..q_len {
                            let position = (kv_len + query).cast_signed() - q_len.cast_signed();
                            let sees = |j: usize| {
                                let at = j.cast_signed();
                                j >= padding
                                    && (!causal || at <= position)
                                    && window.is_none_or(|w| at + w.cast_signed() > position)
                            };
                            let range = mask.visible(query);
                            for j in 0..kv_len {
                                assert_eq!(range.contains(&j), sees(j), "{mask:?} {query} {j}");
                            }
                        }
                    }
                }
            }
        }
    }
}
