//! What a [`DeltaSet`](super::DeltaSet) is made of, with `T` a tensor of two dimensions on a device
//! or in host memory.

use std::sync::atomic::{AtomicU64, Ordering};

/// What some adapters change in every layer of one model.
#[derive(Clone, Debug)]
pub(super) struct Parts<T> {
    /// Parts with the same number hold the same values.
    pub id: u64,
    /// The model.
    pub model: u64,
    /// How many adapters.
    pub members: usize,
    /// By stored matrix.
    pub groups: Vec<Option<Group<T>>>,
    /// The different ways in which adapters share the columns of `B`: the adapter of each.
    pub layouts: Vec<Vec<usize>>,
}

/// What changes of one stored matrix.
#[derive(Clone, Debug)]
pub(super) struct Group<T> {
    pub factors: Option<Factors<T>>,
    /// Whole weights that stand instead of the base's, by adapter.
    pub replaced: Vec<(usize, Whole<T>)>,
}

#[derive(Clone, Debug)]
pub(super) struct Factors<T> {
    /// `[R, in]`.
    pub a: T,
    /// `[out, R]`, with scales and gains.
    pub b: T,
    /// Which layout the `R` columns have.
    pub layout: usize,
    pub gain: Option<Gain<T>>,
}

/// `g` of the adapters with magnitudes.
#[derive(Clone, Debug)]
pub(super) struct Gain<T> {
    /// `1 + Σ (g - 1)`, `[1, out]`.
    pub sum: T,
    /// Of each, with its adapter.
    pub each: Vec<(usize, RowGain<T>)>,
}

/// `g - 1` of one adapter, and what it takes to scale the adapter anew; `[1, out]` each.
#[derive(Clone, Debug)]
pub(super) struct RowGain<T> {
    /// `g - 1`.
    pub change: T,
    /// `‖W‖²`.
    pub weight: T,
    /// `⟨W, ΔW⟩`.
    pub cross: T,
    /// `‖ΔW‖²`.
    pub delta: T,
}

#[derive(Clone, Debug)]
pub(super) struct Whole<T> {
    /// `[out, in]`.
    pub weight: T,
    /// `[1, out]`.
    pub bias: Option<T>,
}

/// A number that no other parts have.
pub(super) fn next_id() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed)
}

impl<T> Parts<T> {
    /// Nothing changes.
    pub fn new(model: u64, members: usize, groups: usize) -> Self {
        let groups = (0..groups).map(|_| None).collect();
        Self { id: next_id(), model, members, groups, layouts: Vec::new() }
    }

    pub fn group(&self, group: usize) -> Option<&Group<T>> {
        self.groups.get(group)?.as_ref()
    }

    pub fn entry(&mut self, group: usize) -> &mut Group<T> {
        self.groups[group].get_or_insert_with(|| Group { factors: None, replaced: Vec::new() })
    }

    /// Shows every tensor.
    pub fn each(&self, show: &mut impl FnMut(&T)) {
        self.map(&mut |tensor| show(tensor));
    }

    /// The same of other tensors.
    pub fn map<U>(&self, f: &mut impl FnMut(&T) -> U) -> Parts<U> {
        let mapped = self.try_map(&mut |tensor| Ok::<_, std::convert::Infallible>(f(tensor)));
        match mapped {
            Ok(mapped) => mapped,
            Err(never) => match never {},
        }
    }

    /// The same of other tensors, if they can be had.
    pub fn try_map<U, E>(&self, f: &mut impl FnMut(&T) -> Result<U, E>) -> Result<Parts<U>, E> {
        let group = |group: &Option<Group<T>>| match group {
            Some(group) => group.try_map(f).map(Some),
            None => Ok(None),
        };
        Ok(Parts {
            id: self.id,
            model: self.model,
            members: self.members,
            groups: self.groups.iter().map(group).collect::<Result<_, E>>()?,
            layouts: self.layouts.clone(),
        })
    }
}

impl<T> Group<T> {
    fn try_map<U, E>(&self, f: &mut impl FnMut(&T) -> Result<U, E>) -> Result<Group<U>, E> {
        let factors = match &self.factors {
            None => None,
            Some(Factors { a, b, layout, gain }) => {
                let gain = match gain {
                    None => None,
                    Some(gain) => Some(gain.try_map(f)?),
                };
                Some(Factors { a: f(a)?, b: f(b)?, layout: *layout, gain })
            }
        };
        let whole = |(member, Whole { weight, bias }): &(usize, Whole<T>)| {
            let bias = bias.as_ref().map(&mut *f).transpose()?;
            Ok((*member, Whole { weight: f(weight)?, bias }))
        };
        let replaced = self.replaced.iter().map(whole).collect::<Result<_, E>>()?;
        Ok(Group { factors, replaced })
    }
}

impl<T> Gain<T> {
    fn try_map<U, E>(&self, f: &mut impl FnMut(&T) -> Result<U, E>) -> Result<Gain<U>, E> {
        let sum = f(&self.sum)?;
        let one = |(member, RowGain { change, weight, cross, delta }): &(usize, RowGain<T>)| {
            let gain = RowGain {
                change: f(change)?,
                weight: f(weight)?,
                cross: f(cross)?,
                delta: f(delta)?,
            };
            Ok((*member, gain))
        };
        Ok(Gain { sum, each: self.each.iter().map(one).collect::<Result<_, E>>()? })
    }
}
