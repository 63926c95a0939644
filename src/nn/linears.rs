//! Linear layers of one input.

use std::iter::repeat_n;

use burn::{module::Module, tensor::Tensor};

use super::{Active, Linear, LoadError, RmsNorm, Stream, Weights};
use crate::{
    backend::{Backend, PackError},
    formats::RawTensor,
};

/// `x · Wᵢᵀ + bᵢ` for several `Wᵢ` and one `x`: queries, keys and values, or gate and up. Where the
/// backend [likes that](Backend::joins_linears), neighbours of the same encoding are one matrix, row
/// under row, and take one product.
#[derive(Module, Debug)]
pub struct Linears<B: Backend> {
    groups: Vec<Group<B>>,
}

/// Neighbours in one matrix.
#[derive(Module, Debug)]
struct Group<B: Backend> {
    joined: Linear<B>,
    /// Output features of each.
    widths: Vec<usize>,
}

impl<B: Backend> Linears<B> {
    /// Reads `<path>.<name>.weight` for each name and its output features, and `.bias` where there is
    /// one, or where they must be `biased`.
    ///
    /// # Errors
    /// [`LoadError`] when a tensor is missing or has another shape.
    pub fn load(
        weights: &Weights<'_, B>,
        in_features: usize,
        layers: &[(&'static str, usize)],
        biased: bool,
    ) -> Result<Self, LoadError> {
        let read = |&(name, features): &(&'static str, usize)| {
            let weight = weights.weight_of(name, [features, in_features])?;
            let bias = biased || weights.contains(&format!("{name}.bias"));
            Ok(Layer { name, features, weight, bias })
        };
        let read = layers.iter().map(read).collect::<Result<Vec<_>, LoadError>>()?;
        let features: usize = layers.iter().map(|(_, features)| features).sum();
        let joins = B::joins_linears() && weights.fits(features * in_features);
        let groups = read.chunk_by(|a, b| joins && a.is_stored_like(b));
        let groups = groups.map(|layers| Group::load(weights, layers));
        Ok(Self { groups: groups.collect::<Result<_, _>>()? })
    }

    /// The [`forward`](Self::forward) of the stream's norm.
    ///
    /// # Panics
    /// If there are not `N` layers.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn of_norm<const N: usize>(
        &self,
        norm: &RmsNorm<B>,
        stream: &mut Stream<B>,
        adapters: &Active<'_, B>,
    ) -> Result<[Tensor<B, 2>; N], PackError> {
        let Some(joined) = self.fused(norm, stream, false, adapters) else {
            return self.forward(stream.normed(norm), adapters);
        };
        let mut out = Vec::with_capacity(N);
        split(joined, &self.groups[0].widths, &mut out);
        Ok(array(out))
    }

    /// `silu(gate) · up` of the stream's norm, for the two layers of a gated block.
    ///
    /// # Panics
    /// If there are not two layers.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn gated(
        &self,
        norm: &RmsNorm<B>,
        stream: &mut Stream<B>,
        adapters: &Active<'_, B>,
    ) -> Result<Tensor<B, 2>, PackError> {
        if let Some(gated) = self.fused(norm, stream, true, adapters) {
            return Ok(gated);
        }
        let [gate, up] = self.of_norm(norm, stream, adapters)?;
        Ok(B::swiglu(gate, up))
    }

    /// One product with the norm before it, and gates.
    fn fused(
        &self,
        norm: &RmsNorm<B>,
        stream: &Stream<B>,
        gated: bool,
        adapters: &Active<'_, B>,
    ) -> Option<Tensor<B, 2>> {
        let [group] = &self.groups[..] else { return None };
        group.joined.fused_with_norm(norm, stream, gated, adapters)
    }

    /// `[rows, in]` to `[rows, out]` of each layer.
    ///
    /// # Panics
    /// If there are not `N` layers.
    ///
    /// # Errors
    /// [`PackError`] where the backend cannot use packed weights.
    pub fn forward<const N: usize>(
        &self,
        x: Tensor<B, 2>,
        adapters: &Active<'_, B>,
    ) -> Result<[Tensor<B, 2>; N], PackError> {
        let mut out = Vec::with_capacity(N);
        for (group, x) in self.groups.iter().zip(repeat_n(x, self.groups.len())) {
            let joined = group.joined.forward(x, adapters)?;
            split(joined, &group.widths, &mut out);
        }
        Ok(array(out))
    }
}

fn array<T, const N: usize>(layers: Vec<T>) -> [T; N] {
    let found = layers.len();
    layers.try_into().unwrap_or_else(|_| panic!("{found} layers where {N} were asked for"))
}

/// A layer that is about to be stored.
struct Layer {
    name: &'static str,
    features: usize,
    weight: RawTensor,
    bias: bool,
}

impl Layer {
    fn is_stored_like(&self, other: &Self) -> bool {
        self.weight.encoding == other.weight.encoding && self.bias == other.bias
    }
}

impl<B: Backend> Group<B> {
    fn load(weights: &Weights<'_, B>, layers: &[Layer]) -> Result<Self, LoadError> {
        let widths: Vec<usize> = layers.iter().map(|layer| layer.features).collect();
        let parts: Vec<_> = layers.iter().map(|layer| &layer.weight).collect();
        let weight = match parts[..] {
            [part] => weights.as_matrix(part.clone(), [part.shape[0], part.shape[1]])?,
            _ => weights.joined(&parts)?,
        };
        let named: Vec<_> = layers.iter().map(|layer| (layer.name, layer.features)).collect();
        let bias = layers[0].bias.then(|| weights.joined_bias(&named)).transpose()?;
        Ok(Self { joined: Linear::of(weights, weight, bias, &named), widths })
    }
}

/// The columns of each layer.
fn split<B: Backend>(joined: Tensor<B, 2>, widths: &[usize], out: &mut Vec<Tensor<B, 2>>) {
    match widths {
        [_] => out.push(joined),
        _ => out.extend(B::columns(joined, widths)),
    }
}
