//! What adapters change in the layers of a model, as an argument of a forward pass.
//!
//! A layer's weight `W` is never touched. With low-rank matrices `A` of `[r, in]` and `B` of
//! `[out, r]` (Hu et al., LoRA, 2021), and for `DoRA` (Liu et al., 2024) a magnitude `m` of `[out]`,
//!
//! ```text
//! y = (1 + Σₖ (gₖ - 1)) ⊙ W·x + Σₖ gₖ ⊙ sₖ·Bₖ·Aₖ·x + bias,    gₖ = mₖ / ‖W + sₖ·Bₖ·Aₖ‖ of each row
//! ```
//!
//! over the adapters `k` (`gₖ = 1` without `DoRA`). Scales and gains lie in `B` already, and the
//! matrices of all adapters lie beside each other, so that a layer takes two small products however
//! many adapters there are. Rows of a batch that use different adapters are told apart by a mask
//! between the two products. Layers that are stored as one matrix have one `A` (theirs under each
//! other) and one `B` (theirs as the blocks of a diagonal).
//!
//! PEFT runs several `DoRA` adapters one after the other, each scaling what the ones before have
//! added; here each refers to the base alone, so that their order does not matter. Of a single
//! adapter that is the same.

use std::{iter::repeat_n, ops::Range, sync::Arc};

use burn::tensor::{DType, Tensor};
use thiserror::Error;

use super::{
    Slot, Slots, Stored,
    parts::{Factors, Gain, Group, Parts, RowGain, Whole, next_id},
};
use crate::backend::{Backend, PackError, Parked};

/// Why deltas do not belong to a model or a batch.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DeltaError {
    /// They were made for another one.
    #[error("the adapters were made for another model than the one that is run")]
    OtherModel,
    /// Only sets of one adapter can be put together.
    #[error("a set of {members} adapters cannot be combined: combine its adapters")]
    Combined {
        /// How many it has.
        members: usize,
    },
    /// A choice for another number of sequences.
    #[error("adapters were chosen for {chosen} sequences, but {tokens} were given")]
    Sequences {
        /// Sequences chosen for.
        chosen: usize,
        /// Sequences given.
        tokens: usize,
    },
    /// A choice that there is not.
    #[error("adapter {member} was chosen, but the set has {members}")]
    Member {
        /// The one chosen, counted from 0.
        member: usize,
        /// How many there are.
        members: usize,
    },
    /// Two adapters replace one layer.
    #[error("two adapters at once bring a whole {module} of their own")]
    Replaced {
        /// The layer.
        module: String,
    },
}

/// The low-rank matrices of one layer on a device.
#[derive(Clone, Debug)]
pub struct LowRank<B: Backend> {
    /// `A`, `[r, in]`.
    pub a: Tensor<B, 2>,
    /// `B`, `[out, r]`.
    pub b: Tensor<B, 2>,
    /// `s`: what `B · A` is multiplied with.
    pub scale: f64,
    /// `DoRA`'s magnitude, `[out]`.
    pub magnitude: Option<Tensor<B, 1>>,
}

/// What some adapters change in every layer of one model.
#[derive(Clone, Debug)]
pub struct DeltaSet<B: Backend>(Parts<Tensor<B, 2>>);

/// A [`DeltaSet`] in host memory, in the very form that it has on a device.
#[derive(Debug)]
pub struct ParkedDeltas<B: Backend> {
    /// With the place of each tensor among those that wait.
    parts: Parts<usize>,
    tensors: Arc<dyn Parked<B>>,
}

/// A whole weight that stands instead of a stored matrix of the base.
#[derive(Clone, Debug)]
pub struct Replacement<B: Backend> {
    /// Which one: [`Slot::group`].
    pub group: usize,
    /// `[out, in]`.
    pub weight: Tensor<B, 2>,
    /// `[1, out]`.
    pub bias: Option<Tensor<B, 2>>,
}

impl<B: Backend> DeltaSet<B> {
    /// One adapter: low-rank matrices by slot, and whole weights by stored matrix.
    ///
    /// Everything is made of tensor operations on `A`, `B` and `m`, so that gradients flow to them
    /// where they ask for some; a row's norm carries none, as in the paper (section 4.3).
    ///
    /// # Errors
    /// [`PackError`] where packed base weights cannot be read (`DoRA` needs their norms).
    pub fn new<'s>(
        slots: &Slots<B>,
        modules: impl IntoIterator<Item = (&'s Slot, LowRank<B>)>,
        replaced: impl IntoIterator<Item = Replacement<B>>,
    ) -> Result<Self, PackError> {
        let mut layers: Vec<Vec<(&Slot, LowRank<B>)>> = vec![Vec::new(); slots.groups().len()];
        for (slot, low) in modules {
            layers[slot.group].push((slot, low));
        }
        let mut parts = Parts::new(slots.id(), 1, layers.len());
        for (group, mut layers) in layers.into_iter().enumerate() {
            if !layers.is_empty() {
                layers.sort_by_key(|(slot, _)| slot.rows.start);
                let factors = factors_of(&slots.groups()[group], layers, &mut parts.layouts)?;
                parts.entry(group).factors = Some(factors);
            }
        }
        for Replacement { group, weight, bias } in replaced {
            parts.entry(group).replaced.push((0, Whole { weight, bias }));
        }
        Ok(Self(parts))
    }

    /// No adapters, for the model with these slots.
    pub fn none(slots: &Slots<B>) -> Self {
        Self(Parts::new(slots.id(), 0, slots.groups().len()))
    }

    /// For inference: factors in the type that the backend likes beside the base, and laid out as it likes
    /// its matrices.
    #[must_use]
    pub fn stored_for(self, slots: &Slots<B>) -> Self {
        let mut parts = self.0;
        parts.id = next_id();
        for (i, group) in parts.groups.iter_mut().enumerate() {
            let dtype = slots.low_rank_dtype(i);
            if let Some(factors) = group.as_mut().and_then(|group| group.factors.as_mut()) {
                let stored = |tensor: &Tensor<B, 2>| B::stored(as_type(tensor.clone(), dtype));
                (factors.a, factors.b) = (stored(&factors.a), stored(&factors.b));
            }
        }
        Self(parts)
    }

    /// Several sets of one adapter each as one set, each with a weight. Low-rank changes are
    /// multiplied with it (and gains follow); whole weights are what they are.
    ///
    /// # Errors
    /// [`DeltaError::OtherModel`] when they are not of one model, [`DeltaError::Combined`] when one
    /// has several adapters.
    pub fn combine(sets: &[(&Self, f64)]) -> Result<Self, DeltaError> {
        let Some((first, _)) = sets.first() else { return Err(DeltaError::OtherModel) };
        for (set, _) in sets {
            if set.0.model != first.0.model {
                return Err(DeltaError::OtherModel);
            }
            if set.0.members != 1 {
                return Err(DeltaError::Combined { members: set.0.members });
            }
        }
        let count = first.0.groups.len();
        let mut combined = Parts::new(first.0.model, sets.len(), count);
        for group in 0..count {
            let (mut factors, mut replaced) = (Vec::new(), Vec::new());
            for (member, (set, weight)) in sets.iter().enumerate() {
                let Some(group) = set.0.group(group) else { continue };
                factors.extend(group.factors.as_ref().map(|of| (member, scaled(of, *weight))));
                replaced.extend(group.replaced.iter().map(|(_, whole)| (member, whole.clone())));
            }
            if !factors.is_empty() || !replaced.is_empty() {
                let factors = beside(&factors, &mut combined.layouts);
                *combined.entry(group) = Group { factors, replaced };
            }
        }
        Ok(Self(combined))
    }

    /// Sets with the same number change the same.
    pub(crate) fn id(&self) -> u64 {
        self.0.id
    }

    /// How many adapters it has.
    pub fn members(&self) -> usize {
        self.0.members
    }

    /// Whether it is of the model with these slots.
    ///
    /// # Errors
    /// [`DeltaError::OtherModel`].
    pub fn check_model(&self, slots: &Slots<B>) -> Result<(), DeltaError> {
        if self.0.model == slots.id() { Ok(()) } else { Err(DeltaError::OtherModel) }
    }

    /// Whether these of its adapters can be used on one row.
    ///
    /// # Errors
    /// [`DeltaError::Replaced`] when two of them bring the same layer, [`DeltaError::Member`] when
    /// there is no such adapter.
    pub fn check_together(&self, members: &[usize], slots: &Slots<B>) -> Result<(), DeltaError> {
        if let Some(&member) = members.iter().find(|&&member| member >= self.members()) {
            return Err(DeltaError::Member { member, members: self.members() });
        }
        for (i, group) in self.0.groups.iter().enumerate() {
            let replaced = group.iter().flat_map(|group| &group.replaced);
            if replaced.filter(|(member, _)| members.contains(member)).count() > 1 {
                let module = slots.paths(i).collect::<Vec<_>>().join(", ");
                return Err(DeltaError::Replaced { module });
            }
        }
        Ok(())
    }

    pub(super) fn group(&self, group: usize) -> Option<&Group<Tensor<B, 2>>> {
        self.0.group(group)
    }

    /// Whether no layer has a gain.
    pub(super) fn has_no_gains(&self) -> bool {
        let mut factors = self.0.groups.iter().flatten().filter_map(|group| group.factors.as_ref());
        factors.all(|factors| factors.gain.is_none())
    }

    pub(super) fn layouts(&self) -> &[Vec<usize>] {
        &self.0.layouts
    }

    /// Bytes of its tensors on the device.
    pub fn bytes(&self) -> u64 {
        let mut bytes = 0;
        self.0.each(&mut |tensor| {
            bytes += (tensor.shape().num_elements() * tensor.dtype().size()) as u64;
        });
        bytes
    }

    /// The weight that stands instead of a stored matrix where no adapters are chosen by sequence.
    pub fn replacement(&self, group: usize) -> Option<Replacement<B>> {
        let (_, Whole { weight, bias }) = self.group(group)?.replaced.first()?;
        Some(Replacement { group, weight: weight.clone(), bias: bias.clone() })
    }

    /// A copy in host memory, as the backend brings it back fastest.
    ///
    /// # Errors
    /// What the device says when reading fails.
    pub fn park(&self, device: &B::Device) -> Result<ParkedDeltas<B>, String> {
        let mut tensors = Vec::new();
        let parts = self.0.try_map(&mut |tensor| {
            tensors.push(tensor.clone().try_into_data().map_err(|error| error.to_string())?);
            Ok::<_, String>(tensors.len() - 1)
        })?;
        Ok(ParkedDeltas { parts, tensors: B::park(tensors, device) })
    }
}

impl<B: Backend> ParkedDeltas<B> {
    /// Back on a device.
    pub fn to_device(&self, device: &B::Device) -> DeltaSet<B> {
        let tensors = self.tensors.bring_back(device);
        DeltaSet(self.parts.map(&mut |&i| tensors[i].clone()))
    }
}

fn as_type<B: Backend>(tensor: Tensor<B, 2>, dtype: DType) -> Tensor<B, 2> {
    if tensor.dtype() == dtype { tensor } else { tensor.cast(dtype) }
}

/// Columns at their rows of a taller matrix, zeros elsewhere.
fn padded<B: Backend>(b: Tensor<B, 2>, rows: &Range<usize>, height: usize) -> Tensor<B, 2> {
    let ([_, rank], device, dtype) = (b.dims(), b.device(), b.dtype());
    let zeros = |rows| Tensor::zeros([rows, rank], (&device, dtype));
    let (above, below) = (rows.start, height - rows.end);
    let mut parts = vec![b];
    if above > 0 {
        parts.insert(0, zeros(above));
    }
    if below > 0 {
        parts.push(zeros(below));
    }
    joined(parts, 0)
}

/// One matrix of several, without a copy where there is one.
fn joined<B: Backend>(mut parts: Vec<Tensor<B, 2>>, dim: usize) -> Tensor<B, 2> {
    if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, dim) }
}

/// Those of the layers of one stored matrix, in the order of their rows.
fn factors_of<B: Backend>(
    base: &Stored<B>,
    layers: Vec<(&Slot, LowRank<B>)>,
    layouts: &mut Vec<Vec<usize>>,
) -> Result<Factors<Tensor<B, 2>>, PackError> {
    let [height, _] = base.matrix.shape();
    let (mut a, mut b, mut gains) = (Vec::new(), Vec::new(), Vec::new());
    for (slot, low) in layers {
        let mut scaled = low.b * low.scale;
        if let Some(magnitude) = low.magnitude {
            let (a, b) = (low.a.clone().detach(), scaled.clone().detach());
            let [weight, cross, delta] = row_norms(base, slot, &a, &b)?;
            let g = magnitude.unsqueeze_dim::<2>(0) / norm(&weight, &cross, &delta, 1.0);
            scaled = scaled * g.clone().transpose();
            gains.push((slot.rows.clone(), RowGain { change: g - 1.0, weight, cross, delta }));
        }
        a.push(low.a);
        b.push(padded(scaled, &slot.rows, height));
    }
    let gain = (!gains.is_empty()).then(|| sum(vec![(0, over(&gains, height))]));
    let (a, b) = (joined(a, 0), joined(b, 1));
    let layout = find_or_add(layouts, vec![0; a.dims()[0]]);
    Ok(Factors { a, b, layout, gain })
}

/// Those of one adapter with a weight.
fn scaled<B: Backend>(of: &Factors<Tensor<B, 2>>, weight: f64) -> Factors<Tensor<B, 2>> {
    let mut scaled = of.clone();
    if weight.to_bits() == 1f64.to_bits() {
        return scaled;
    }
    let dtype = of.b.dtype();
    let mut b = as_type(of.b.clone(), DType::F32) * weight;
    if let Some(gain) = &of.gain {
        let (_, RowGain { change, weight: squares, cross, delta }) = &gain.each[0];
        let ratio = norm(squares, cross, delta, 1.0) / norm(squares, cross, delta, weight);
        b = b * ratio.clone().transpose();
        let only = RowGain {
            change: (change.clone() + 1.0) * ratio - 1.0,
            weight: squares.clone(),
            cross: cross.clone() * weight,
            delta: delta.clone() * (weight * weight),
        };
        scaled.gain = Some(sum(vec![(0, only)]));
    }
    scaled.b = as_type(b, dtype);
    scaled
}

/// Those of several adapters beside each other.
fn beside<B: Backend>(
    parts: &[(usize, Factors<Tensor<B, 2>>)],
    layouts: &mut Vec<Vec<usize>>,
) -> Option<Factors<Tensor<B, 2>>> {
    if parts.is_empty() {
        return None;
    }
    let ranks = parts.iter().map(|(member, part)| repeat_n(*member, part.a.dims()[0]));
    let layout = find_or_add(layouts, ranks.flatten().collect());
    let a = joined(parts.iter().map(|(_, part)| part.a.clone()).collect(), 0);
    let b = joined(parts.iter().map(|(_, part)| part.b.clone()).collect(), 1);
    let of = |(member, part): &(usize, Factors<_>)| {
        part.gain.as_ref().map(|gain: &Gain<_>| (*member, gain.each[0].1.clone()))
    };
    let gains: Vec<_> = parts.iter().filter_map(of).collect();
    let gain = (!gains.is_empty()).then(|| sum(gains));
    Some(Factors { a, b, layout, gain })
}

fn sum<B: Backend>(each: Vec<(usize, RowGain<Tensor<B, 2>>)>) -> Gain<Tensor<B, 2>> {
    let changes = each.iter().map(|(_, gain)| gain.change.clone());
    let sum = changes.reduce(|a, b| a + b).expect("there is at least one") + 1.0;
    Gain { sum, each }
}

/// Gains of some layers as those of the whole stored matrix; between them nothing changes.
fn over<B: Backend>(
    layers: &[(Range<usize>, RowGain<Tensor<B, 2>>)],
    height: usize,
) -> RowGain<Tensor<B, 2>> {
    type Side<B> = fn(&RowGain<Tensor<B, 2>>) -> &Tensor<B, 2>;
    let join = |side: Side<B>, fill: f32| {
        let device = side(&layers[0].1).device();
        let filled = |width| Tensor::full([1, width], fill, (&device, DType::F32));
        let (mut at, mut parts) = (0, Vec::new());
        for (rows, gain) in layers {
            if rows.start > at {
                parts.push(filled(rows.start - at));
            }
            parts.push(side(gain).clone());
            at = rows.end;
        }
        if height > at {
            parts.push(filled(height - at));
        }
        joined(parts, 1)
    };
    RowGain {
        change: join(|gain| &gain.change, 0.0),
        weight: join(|gain| &gain.weight, 1.0),
        cross: join(|gain| &gain.cross, 0.0),
        delta: join(|gain| &gain.delta, 0.0),
    }
}

fn find_or_add(layouts: &mut Vec<Vec<usize>>, layout: Vec<usize>) -> usize {
    layouts.iter().position(|known| *known == layout).unwrap_or_else(|| {
        layouts.push(layout);
        layouts.len() - 1
    })
}

/// `‖W + w·ΔW‖` of each row.
fn norm<B: Backend>(
    weight: &Tensor<B, 2>,
    cross: &Tensor<B, 2>,
    delta: &Tensor<B, 2>,
    w: f64,
) -> Tensor<B, 2> {
    let squares = weight.clone() + cross.clone() * (2.0 * w) + delta.clone() * (w * w);
    // Rounding may leave less than nothing where ΔW cancels W.
    squares.clamp_min(0.0).sqrt()
}

/// Values of the base that are made dense at a time.
const PART: usize = 1 << 22;

/// `‖W‖²`, `⟨W, ΔW⟩` and `‖ΔW‖²` of each row of a layer, `[1, out]` each, with `ΔW = b · a` and
/// without forming it: `⟨W, ΔW⟩ = Σ b ⊙ (W · aᵀ)` and `‖ΔW‖² = Σ b ⊙ (b · a · aᵀ)`.
fn row_norms<B: Backend>(
    base: &Stored<B>,
    slot: &Slot,
    a: &Tensor<B, 2>,
    b: &Tensor<B, 2>,
) -> Result<[Tensor<B, 2>; 3], PackError> {
    let (rows, device) = (&slot.rows, a.device());
    let at_once = (PART / slot.columns.max(1)).max(1);
    let (mut squares, mut cross) = (Vec::new(), Vec::new());
    for first in rows.clone().step_by(at_once) {
        let part = first..rows.end.min(first + at_once);
        let weight = base.matrix.dense_rows(part.clone(), &device)?;
        let b = b.clone().narrow(0, part.start - rows.start, part.len());
        cross.push((weight.clone().matmul(a.clone().transpose()) * b).sum_dim(1));
        squares.push((weight.clone() * weight).sum_dim(1));
    }
    let gram = a.clone().matmul(a.clone().transpose());
    let delta = (b.clone().matmul(gram) * b.clone()).sum_dim(1);
    Ok([joined(squares, 0), joined(cross, 0), delta].map(Tensor::transpose))
}
