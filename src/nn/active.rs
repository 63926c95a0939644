//! Layers with what adapters change in them: see [`DeltaSet`] for the formula.

use std::ops::Deref;

use burn::{
    module::Param,
    tensor::{DType, Distribution, Tensor},
};

use super::{
    DeltaSet, Matrix, RmsNorm,
    choice::Masks,
    parts::{Gain, Group, Whole},
};
use crate::backend::{Backend, FusedLinear, PackError, Weight, add_bias};

/// What one pass adds to the layers, ready for its rows.
#[derive(Debug)]
pub struct Active<'a, B: Backend> {
    pub(super) set: Option<&'a DeltaSet<B>>,
    pub(super) masks: Option<Masks<B>>,
    pub(super) dropout: f64,
}

/// What a layer does around its product.
pub(super) struct Around<'a, B: Backend> {
    /// Before it.
    pub norm: Option<&'a RmsNorm<B>>,
    /// After it.
    pub residual: Option<&'a Tensor<B, 2>>,
    /// See [`FusedLinear::gated`].
    pub gated: bool,
}

#[allow(clippy::expl_impl_clone_on_copy)] // derived, it would ask the same of B
impl<B: Backend> Clone for Around<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Around<'_, B> {}

impl<B: Backend> Around<'_, B> {
    pub const NOTHING: Self = Self { norm: None, residual: None, gated: false };
}

/// A stored matrix of the base with its bias.
pub(super) struct Base<'a, B: Backend> {
    pub slot: usize,
    pub matrix: &'a Matrix<B>,
    pub bias: Option<&'a Param<Tensor<B, 1>>>,
}

#[allow(clippy::expl_impl_clone_on_copy)] // derived, it would ask the same of B
impl<B: Backend> Clone for Base<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Base<'_, B> {}

impl<B: Backend> Base<'_, B> {
    fn bias(&self) -> Option<Tensor<B, 1>> {
        self.bias.map(Param::val)
    }
}

impl<B: Backend> Active<'_, B> {
    /// Nothing: the base alone.
    pub const NONE: Self = Self { set: None, masks: None, dropout: 0.0 };

    fn group(&self, slot: usize) -> Option<&Group<Tensor<B, 2>>> {
        self.set?.group(slot)
    }

    /// Whether it asks for nothing but the backend's own products on so many rows: see
    /// [`Backend::gather`].
    pub fn is_part_of_products(&self, rows: usize) -> bool {
        let Some(set) = self.set else { return true };
        self.is_of_one_row(rows) && set.has_no_gains()
    }

    /// Whether there is one row, of which all adapters see the same.
    fn is_of_one_row(&self, rows: usize) -> bool {
        rows == 1 && self.masks.is_none() && self.dropout <= 0.0
    }

    /// The product of a stored matrix with `x`, what changes it, and what is around it, in as few
    /// operations as there can be; `None` where the backend has none for that.
    pub(super) fn fused(
        &self,
        base: Base<'_, B>,
        x: &Tensor<B, 2>,
        around: Around<'_, B>,
    ) -> Option<Tensor<B, 2>> {
        let Around { norm, residual, gated } = around;
        let norm = norm.map(RmsNorm::parts);
        let group = self.group(base.slot);
        let has_gain =
            |group: &Group<_>| group.factors.as_ref().is_some_and(|of| of.gain.is_some());
        if group.is_some_and(|group| has_gain(group) || !self.is_of_one_row(x.dims()[0])) {
            return None;
        }
        let whole = group.and_then(|group| group.replaced.first()).map(|(_, whole)| whole);
        let flat = whole.and_then(|whole| whole.bias.clone()).map(|bias| bias.reshape([-1]));
        let (weight, bias) = match whole {
            Some(whole) => (Weight::Dense(whole.weight.clone()), flat.as_ref()),
            None => (base.matrix.weight(), base.bias.map(Deref::deref)),
        };
        let factors = group.and_then(|group| group.factors.as_ref());
        let low_rank = factors.map(|factors| [&factors.a, &factors.b]);
        B::fused_linear(x, &FusedLinear { weight, norm, low_rank, bias, residual, gated })
    }

    /// The product of a stored matrix with `x`, `[rows, in]` to `[rows, out]`, with all that changes
    /// it.
    pub(super) fn product(
        &self,
        base: Base<'_, B>,
        x: Tensor<B, 2>,
    ) -> Result<Tensor<B, 2>, PackError> {
        let Some(group) = self.group(base.slot) else {
            return base.matrix.product(x, base.bias());
        };
        let Some(factors) = &group.factors else { return self.whole(group, base, x, true) };
        if let Some(out) = self.fused(base, &x, Around::NOTHING) {
            return Ok(out);
        }
        let rows = x.dims()[0];
        let seen = self.dropped(x.clone());
        let mut low = B::dense_linear(seen.clone(), factors.a.clone(), None);
        if let Some(masks) = &self.masks {
            low = low.clone() * masks.columns(factors.layout, rows, low.dtype());
        }
        // A single row is what a bias is: where that is a part of the product, adding it is no operation
        // of its own.
        let joins = rows == 1 && factors.gain.is_none() && group.replaced.is_empty();
        let bias = if joins { base.bias() } else { None };
        let low = B::dense_linear(low, factors.b.clone(), bias);
        if joins {
            return base.matrix.product(x, Some(low.reshape([-1])));
        }
        match &factors.gain {
            Some(gain) => {
                let out = self.whole(group, base, x, false)?;
                let gain = self.gain(gain, rows).cast(out.dtype());
                // What is left out is left out of everything that the adapter adds, as in PEFT.
                let scaled = if self.dropout > 0.0 {
                    out + self.whole(group, base, seen, false)? * (gain - 1.0)
                } else {
                    out * gain
                };
                Ok(self.biased(group, base, scaled + low))
            }
            None => Ok(self.whole(group, base, x, true)? + low),
        }
    }

    /// What the low-rank matrices see of `x` (Srivastava et al., Dropout, 2014).
    fn dropped(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        if self.dropout <= 0.0 {
            return x;
        }
        let kept = 1.0 - self.dropout;
        let options = (&x.device(), x.dtype());
        let mask = Tensor::random(x.shape(), Distribution::Bernoulli(kept), options);
        x * (mask / kept)
    }

    /// `1 + Σ (g - 1)`, over the adapters of each row.
    fn gain(&self, gain: &Gain<Tensor<B, 2>>, rows: usize) -> Tensor<B, 2> {
        let Some(masks) = &self.masks else { return gain.sum.clone() };
        let of = gain
            .each
            .iter()
            .map(|(member, gain)| masks.member(*member, rows, DType::F32) * gain.change.clone());
        of.reduce(|a, b| a + b).expect("there is at least one") + 1.0
    }

    /// The product with the base, or with what stands instead of it.
    fn whole(
        &self,
        group: &Group<Tensor<B, 2>>,
        base: Base<'_, B>,
        x: Tensor<B, 2>,
        biased: bool,
    ) -> Result<Tensor<B, 2>, PackError> {
        let of = |whole: &Whole<Tensor<B, 2>>, x| {
            let bias = whole.bias.clone().filter(|_| biased).map(|bias| bias.reshape([-1]));
            B::dense_linear(x, whole.weight.clone(), bias)
        };
        match (&self.masks, &group.replaced[..]) {
            (None, [(_, whole), ..]) => Ok(of(whole, x)),
            (masks, replaced) => {
                let out = base.matrix.product(x.clone(), base.bias().filter(|_| biased))?;
                Ok(mixed(masks.as_ref(), replaced, out, |whole| of(whole, x.clone())))
            }
        }
    }

    /// With the bias of whichever weight the rows use. (Gains do not reach it.)
    fn biased(
        &self,
        group: &Group<Tensor<B, 2>>,
        base: Base<'_, B>,
        out: Tensor<B, 2>,
    ) -> Tensor<B, 2> {
        let of = |whole: &Whole<Tensor<B, 2>>| whole.bias.clone().map(|bias| bias.reshape([-1]));
        if let (None, [(_, whole), ..]) = (&self.masks, &group.replaced[..]) {
            return add_bias(out, of(whole));
        }
        let plain = add_bias(out.clone(), base.bias());
        mixed(self.masks.as_ref(), &group.replaced, plain, |whole| add_bias(out.clone(), of(whole)))
    }

    /// Rows `ids` of an embedding, or of what stands instead of it.
    pub(super) fn rows(
        &self,
        base: Base<'_, B>,
        ids: &[u32],
        device: &B::Device,
        dtype: DType,
    ) -> Result<Tensor<B, 2>, PackError> {
        let Some(group) = self.group(base.slot) else {
            return base.matrix.rows(ids, device, dtype);
        };
        let of = |whole: &Whole<Tensor<B, 2>>| B::dense_rows(whole.weight.clone(), ids, dtype);
        match (&self.masks, &group.replaced[..]) {
            (None, [(_, whole), ..]) => Ok(of(whole)),
            (masks, replaced) => {
                let out = base.matrix.rows(ids, device, dtype)?;
                Ok(mixed(masks.as_ref(), replaced, out, of))
            }
        }
    }
}

/// The rows of those that have a weight of their own, and the base's for the others.
fn mixed<B: Backend>(
    masks: Option<&Masks<B>>,
    replaced: &[(usize, Whole<Tensor<B, 2>>)],
    base: Tensor<B, 2>,
    of: impl Fn(&Whole<Tensor<B, 2>>) -> Tensor<B, 2>,
) -> Tensor<B, 2> {
    let Some(masks) = masks else { return base };
    let (rows, mut out) = (base.dims()[0], base);
    for (member, whole) in replaced {
        let mask = masks.member(*member, rows, out.dtype());
        out = out.clone() + (of(whole) - out) * mask;
    }
    out
}
