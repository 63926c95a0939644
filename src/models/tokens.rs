//! A batch of token ids on the host.

use thiserror::Error;

/// Why sequences do not make a batch.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BatchError {
    /// There is nothing to run.
    #[error("a batch needs at least one token in each sequence (sequence {row} has none)")]
    Empty {
        /// The empty sequence, or 0 if there is no sequence at all.
        row: usize,
    },
}

/// Token ids, `[batch, len]`, padded on the left where sequences are of unequal length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBatch {
    ids: Vec<u32>,
    left_padding: Vec<usize>,
}

impl TokenBatch {
    /// Puts sequences beside each other; shorter ones are padded on the left with token 0, which
    /// no other position sees.
    ///
    /// # Errors
    /// [`BatchError::Empty`] when there is no sequence or one is empty.
    pub fn new<S: AsRef<[u32]>>(sequences: &[S]) -> Result<Self, BatchError> {
        let len = sequences.iter().map(|s| s.as_ref().len()).max().unwrap_or(0);
        if let Some(row) = sequences.iter().position(|s| s.as_ref().is_empty()) {
            return Err(BatchError::Empty { row });
        }
        if len == 0 {
            return Err(BatchError::Empty { row: 0 });
        }
        let mut ids = Vec::with_capacity(len * sequences.len());
        let mut left_padding = Vec::with_capacity(sequences.len());
        for sequence in sequences {
            let padding = len - sequence.as_ref().len();
            ids.extend(std::iter::repeat_n(0, padding));
            ids.extend_from_slice(sequence.as_ref());
            left_padding.push(padding);
        }
        Ok(Self { ids, left_padding })
    }

    /// The ids, row after row.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Sequences.
    pub fn batch(&self) -> usize {
        self.left_padding.len()
    }

    /// Positions per sequence, padding included. A batch is never empty.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.ids.len() / self.left_padding.len()
    }

    /// Padding positions at the front of each sequence.
    pub fn left_padding(&self) -> &[usize] {
        &self.left_padding
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unequal_sequences_are_padded_on_the_left() {
        let batch = TokenBatch::new(&[vec![5, 6, 7], vec![8]]).unwrap();
        assert_eq!(batch.ids(), [5, 6, 7, 0, 0, 8]);
        assert_eq!((batch.batch(), batch.len(), batch.left_padding()), (2, 3, &[0, 2][..]));
    }

    #[test]
    fn nothing_to_run_is_an_error() {
        assert_eq!(TokenBatch::new::<Vec<u32>>(&[]), Err(BatchError::Empty { row: 0 }));
        assert_eq!(TokenBatch::new(&[vec![1], vec![]]), Err(BatchError::Empty { row: 1 }));
    }
}
