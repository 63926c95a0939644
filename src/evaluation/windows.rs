//! A text in windows.

use super::EvaluationError;

/// Windows of a text's tokens.
#[derive(Clone, Debug)]
pub struct Windows {
    tokens: Vec<u32>,
    length: usize,
    bos: Option<u32>,
}

impl Windows {
    /// Cuts `tokens` into windows of `length`, each of which begins with `bos` if there is one. What
    /// fills no window is left out.
    ///
    /// # Errors
    /// [`EvaluationError::Short`] when not even one is filled, or a window has no second half.
    pub fn new(tokens: Vec<u32>, length: usize, bos: Option<u32>) -> Result<Self, EvaluationError> {
        if length < 4 || tokens.len() < length {
            return Err(EvaluationError::Short { tokens: tokens.len(), length });
        }
        Ok(Self { tokens, length, bos })
    }

    /// The first `count` of them.
    #[must_use]
    pub fn take(mut self, count: usize) -> Self {
        self.tokens.truncate(count.saturating_mul(self.length));
        self
    }

    /// Windows there are.
    pub fn count(&self) -> usize {
        self.tokens.len() / self.length
    }

    /// Tokens in a window.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The first position whose prediction counts.
    pub fn first_counted(&self) -> usize {
        self.length / 2
    }

    /// The tokens of all windows, as they are in the text.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens[..self.count() * self.length]
    }

    /// The windows.
    pub fn iter(&self) -> impl Iterator<Item = Vec<u32>> + '_ {
        self.tokens.chunks_exact(self.length).map(|window| {
            let mut window = window.to_vec();
            if let Some(bos) = self.bos {
                window[0] = bos;
            }
            window
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_full_and_begin_alike() {
        let windows = Windows::new((10..23).collect(), 4, Some(1)).expect("long enough");
        let all: Vec<_> = windows.iter().collect();
        assert_eq!(all, [[1, 11, 12, 13], [1, 15, 16, 17], [1, 19, 20, 21]]);
        assert_eq!((windows.count(), windows.first_counted()), (3, 2));
        assert_eq!(windows.take(2).tokens(), (10..18).collect::<Vec<u32>>());
        let error = Windows::new(vec![1, 2, 3], 4, None).expect_err("too short");
        assert_eq!(error.to_string(), "the text has 3 tokens, less than one window of 4");
    }
}
