//! Recording what a prototype computes.

use std::marker::PhantomData;

use burn::tensor::{BasicOps, Tensor};

use super::Snapshot;
use crate::{
    backend::Backend,
    models::{Cache, CausalLm, HiddenState, LogitRows, ModelError, Pass, TokenBatch},
};

/// Takes down the tensors that a prototype names. Each is read back from the device at once.
#[derive(Clone, Debug)]
pub struct Capture<B: Backend> {
    snapshot: Snapshot,
    backend: PhantomData<B>,
}

impl<B: Backend> Default for Capture<B> {
    fn default() -> Self {
        Self { snapshot: Snapshot::new(), backend: PhantomData }
    }
}

impl<B: Backend> Capture<B> {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes down a tensor of any rank: floats, integers or booleans.
    ///
    /// # Panics
    /// When the name is in use or cannot be one, see [`Snapshot::insert`], and when the device
    /// cannot be read.
    #[track_caller]
    pub fn tensor<const D: usize, K: BasicOps<B>>(
        &mut self,
        name: impl Into<String>,
        tensor: &Tensor<B, D, K>,
    ) {
        self.snapshot.insert(name, tensor);
    }

    /// Runs a model and takes down its whole forward pass: `NAME.hidden.embed`,
    /// `NAME.hidden.layer.0` and so on, `NAME.hidden.final_norm` (each
    /// `[batch, positions, hidden]`), and `NAME.logits`, which it also returns. `cache` and `rows`
    /// are those of [`CausalLm::forward`]; several passes take a name each.
    ///
    /// What stands at the padding of unequal sequences is taken down too. It is of no consequence
    /// to anything else, and the same on every backend.
    ///
    /// # Errors
    /// [`ModelError`], as the model gives it.
    ///
    /// # Panics
    /// As [`tensor`](Self::tensor).
    #[track_caller]
    pub fn forward(
        &mut self,
        name: &str,
        model: &dyn CausalLm<B>,
        tokens: &TokenBatch,
        cache: Option<&mut Cache<B>>,
        rows: LogitRows,
    ) -> Result<Tensor<B, 3>, ModelError> {
        let mut take = |state: HiddenState, tensor: Tensor<B, 3>| {
            self.tensor(format!("{name}.{state}"), &tensor);
        };
        let pass = Pass { observer: Some(&mut take), ..Pass::of(rows) };
        let logits = model.run(tokens, cache, pass)?;
        self.tensor(format!("{name}.logits"), &logits);
        Ok(logits)
    }

    /// All that was taken down.
    pub fn finish(self) -> Snapshot {
        self.snapshot
    }
}
