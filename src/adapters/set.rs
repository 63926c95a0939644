//! Adapters on a device, and a model as it is with them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use burn::tensor::{DType, Tensor};

use super::AdapterError;
use crate::{
    backend::{Backend, Chosen},
    models::{Cache, CausalLm, DecoderConfig, ModelError, Pass, TokenBatch},
    nn::{Choice, DeltaSet, Deltas, Slots},
};

/// A part of a budget, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    used: Arc<AtomicU64>,
    bytes: u64,
}

impl Claim {
    /// Takes it; the caller has checked that there is room.
    pub(super) fn new(used: &Arc<AtomicU64>, bytes: u64) -> Self {
        used.fetch_add(bytes, Ordering::Relaxed);
        Self { used: used.clone(), bytes }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Adapters that are used together, on the device of their model. A generation holds the set that it
/// began with; when the last holder lets go, the memory is free.
#[derive(Debug)]
pub struct AdapterSet<B: Backend> {
    members: Vec<(String, f64)>,
    deltas: Option<DeltaSet<B>>,
    slots: Arc<Slots<B>>,
    /// What it was made of: tensors may be shared.
    _parts: Vec<Arc<Self>>,
    claim: Claim,
}

impl<B: Backend> AdapterSet<B> {
    pub(super) fn new(
        members: Vec<(String, f64)>,
        deltas: Option<DeltaSet<B>>,
        slots: Arc<Slots<B>>,
        parts: Vec<Arc<Self>>,
        claim: Claim,
    ) -> Self {
        Self { members, deltas, slots, _parts: parts, claim }
    }

    /// The adapters and their weights.
    pub fn members(&self) -> &[(String, f64)] {
        &self.members
    }

    /// Whether there are none: the base alone.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        self.claim.bytes
    }

    /// What they change.
    pub fn deltas(&self) -> Option<&DeltaSet<B>> {
        self.deltas.as_ref()
    }

    /// Which of the adapters each sequence of a batch uses, by name; none is the base alone.
    ///
    /// # Errors
    /// [`AdapterError::Unknown`] for a name that is not in the set.
    pub fn choose<N: AsRef<[S]>, S: AsRef<str>>(
        &self,
        sequences: &[N],
    ) -> Result<Choice<B>, AdapterError> {
        let number = |name: &S| {
            let name = name.as_ref();
            self.members.iter().position(|(member, _)| member == name).ok_or_else(|| {
                let known: Vec<_> = self.members.iter().map(|(name, _)| name.as_str()).collect();
                AdapterError::Unknown { name: name.to_owned(), known: known.join(", ") }
            })
        };
        let members = sequences
            .iter()
            .map(|names| names.as_ref().iter().map(number).collect())
            .collect::<Result<Vec<Vec<usize>>, _>>()?;
        let none = DeltaSet::none(&self.slots);
        Ok(Choice::new(self.deltas.as_ref().unwrap_or(&none), &self.slots, &members)?)
    }
}

/// A model with adapters: a model of its own, whose adapters stay the same whatever is applied
/// elsewhere meanwhile.
#[derive(Clone, Debug)]
pub struct Adapted<B: Backend> {
    model: Arc<dyn CausalLm<B>>,
    set: Arc<AdapterSet<B>>,
    choice: Option<Choice<B>>,
}

impl<B: Backend> Adapted<B> {
    /// Every sequence uses all of the set's adapters.
    ///
    /// # Errors
    /// [`AdapterError::Delta`] when the set is of another model, or two of its adapters bring the
    /// same layer.
    pub fn new(model: Arc<dyn CausalLm<B>>, set: Arc<AdapterSet<B>>) -> Result<Self, AdapterError> {
        if let Some(deltas) = &set.deltas {
            deltas.check_model(model.slots())?;
            let all: Vec<usize> = (0..deltas.members()).collect();
            deltas.check_together(&all, model.slots())?;
        }
        Ok(Self { model, set, choice: None })
    }

    /// Each sequence of a batch uses adapters of its own ([`AdapterSet::choose`]).
    ///
    /// # Errors
    /// [`AdapterError::Delta`] when the set is of another model.
    pub fn by_sequence(
        model: Arc<dyn CausalLm<B>>,
        set: Arc<AdapterSet<B>>,
        choice: Choice<B>,
    ) -> Result<Self, AdapterError> {
        if let Some(deltas) = &set.deltas {
            deltas.check_model(model.slots())?;
        }
        Ok(Self { model, set, choice: Some(choice) })
    }

    /// Those of a pass, if it has some, and else these.
    fn or_these<'a>(&'a self, of_pass: Deltas<'a, B>) -> Deltas<'a, B> {
        if of_pass.set.is_some() {
            return of_pass;
        }
        let (set, choice) = (self.set.deltas.as_ref(), self.choice.as_ref());
        Deltas { set, choice, ..Deltas::NONE }
    }

    /// The adapters.
    pub fn set(&self) -> &Arc<AdapterSet<B>> {
        &self.set
    }
}

impl<B: Backend> CausalLm<B> for Adapted<B> {
    fn config(&self) -> &DecoderConfig {
        self.model.config()
    }

    fn device(&self) -> &B::Device {
        self.model.device()
    }

    fn dtype(&self) -> DType {
        self.model.dtype()
    }

    fn slots(&self) -> &Arc<Slots<B>> {
        self.model.slots()
    }

    /// The adapters of the pass itself, if it has some, and else these.
    fn run(
        &self,
        tokens: &TokenBatch,
        cache: Option<&mut Cache<B>>,
        pass: Pass<'_, '_, B>,
    ) -> Result<Tensor<B, 3>, ModelError> {
        let deltas = self.or_these(pass.deltas);
        self.model.run(tokens, cache, Pass { deltas, ..pass })
    }

    fn look_ahead(&self, cache: &mut Cache<B>, deltas: Deltas<'_, B>) {
        self.model.look_ahead(cache, self.or_these(deltas));
    }

    fn choose_next(
        &self,
        tokens: &Chosen<B>,
        steps: usize,
        cache: &mut Cache<B>,
        deltas: Deltas<'_, B>,
    ) -> Vec<Chosen<B>> {
        self.model.choose_next(tokens, steps, cache, self.or_these(deltas))
    }
}
