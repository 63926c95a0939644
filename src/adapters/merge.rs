//! Adapters merged into the base's weights: no cost when the model runs, and a report of what the
//! rounding of the merged weights does.
//!
//! ```text
//! W' = W + Σₖ wₖ·sₖ·Bₖ·Aₖ                                    without magnitudes
//! W' = W + Σₖ (mₖ / ‖W + wₖ·sₖ·Bₖ·Aₖ‖ ⊙ (W + wₖ·sₖ·Bₖ·Aₖ) - W)    with them, row by row
//! ```
//!
//! computed in f32 on the host, whatever the device: the numbers are the same everywhere, and the
//! same as in a model that [`merge_rows`] is used to write.
//!
//! The base stays where it is. A merged set stands in front of it, as everything here does, so that
//! taking it away ([`remove_adapter`](super::ApplyAdapter::remove_adapter)) gives the base back, bit
//! by bit; the price is the memory of the merged matrices, which the report states.

use std::{collections::BTreeMap, sync::Arc};

use burn::tensor::{DType, Tensor, TensorData};
use half::f16;
use rayon::prelude::*;

use super::{Adapted, Adapter, AdapterError, AdapterRegistry, AdapterSet};
use crate::{
    backend::{Backend, PackedStorage},
    evaluation::{BaseModel, Divergence, Windows, evaluate},
    models::CausalLm,
    nn::{DeltaSet, Matrix, Replacement, Slot},
};

/// What one adapter changes in one module, on the host.
#[derive(Clone, Debug)]
pub struct ModuleChange {
    /// `A`, `[r, in]`.
    a: Vec<f32>,
    /// `B`, `[out, r]`.
    b: Vec<f32>,
    rank: usize,
    scale: f32,
    magnitude: Option<Vec<f32>>,
}

impl ModuleChange {
    /// That of an adapter with a weight, if it has low-rank matrices for the module.
    ///
    /// # Errors
    /// [`AdapterError`] when its tensors cannot be decoded.
    pub fn of(adapter: &Adapter, module: &str, weight: f64) -> Result<Option<Self>, AdapterError> {
        let Some(tensors) = adapter.modules.get(module) else { return Ok(None) };
        let magnitude = tensors.magnitude.as_ref().map(|m| adapter.values(m)).transpose()?;
        Ok(Some(Self {
            a: adapter.values(&tensors.a)?,
            b: adapter.values(&tensors.b)?,
            rank: tensors.rank(),
            scale: (weight * adapter.scaling(module)?) as f32,
            magnitude,
        }))
    }

    /// Adds what it changes in row `row` of the weight, `base`, to `merged`.
    fn add_to(&self, row: usize, base: &[f32], merged: &mut [f32]) {
        let columns = base.len();
        let mut delta = vec![0.0f32; columns];
        let of_row = &self.b[row * self.rank..(row + 1) * self.rank];
        for (b, a) in of_row.iter().zip(self.a.chunks_exact(columns.max(1))) {
            for (delta, a) in delta.iter_mut().zip(a) {
                *delta += b * a;
            }
        }
        let changed = |(base, delta): (&f32, &f32)| base + self.scale * delta;
        match &self.magnitude {
            None => {
                for (merged, delta) in merged.iter_mut().zip(&delta) {
                    *merged += self.scale * delta;
                }
            }
            Some(magnitude) => {
                let squares = base.iter().zip(&delta).map(changed).map(|v| f64::from(v).powi(2));
                let gain = (f64::from(magnitude[row]) / squares.sum::<f64>().sqrt()) as f32;
                for (merged, row) in merged.iter_mut().zip(base.iter().zip(&delta)) {
                    *merged += gain * changed(row) - row.0;
                }
            }
        }
    }
}

/// Changes rows of a module's weight: `weight` is `[rows, columns]`, the rows from `first` on.
///
/// # Panics
/// If the changes are not of that module's shape.
pub fn merge_rows(weight: &mut [f32], columns: usize, first: usize, changes: &[ModuleChange]) {
    weight.par_chunks_mut(columns.max(1)).enumerate().for_each(|(i, merged)| {
        let base = merged.to_vec();
        for change in changes {
            change.add_to(first + i, &base, merged);
        }
    });
}

/// How to merge.
#[derive(Clone, Copy, Debug, Default)]
pub struct MergeOptions<'a> {
    /// Makes packed matrices dense where they change. Without it, they are refused.
    pub unpack: bool,
    /// A text to compare the merged model with the unmerged one on.
    pub sample: Option<&'a Windows>,
}

/// What merging did.
#[derive(Clone, Debug)]
pub struct MergeReport {
    /// By module, the largest error that storing the merged weight has made (f32 has none).
    pub largest_error: BTreeMap<String, f32>,
    /// Bytes of the base's matrices that are replaced.
    pub base_bytes: u64,
    /// Bytes of those that replace them.
    pub merged_bytes: u64,
    /// How far the merged model's predictions are from the unmerged one's on the sample.
    pub divergence: Option<Divergence>,
}

/// A layer, its slot, and what adapters change in it.
type Changed<'a> = (&'a str, &'a Slot, Vec<ModuleChange>);

impl<B: Backend> AdapterRegistry<B> {
    /// Merges adapters, each with a weight, into copies of the base's weights, and gives the result
    /// as a set to [apply](AdapterRegistry::apply_set). The merged matrices are stored as the model's
    /// matrices are.
    ///
    /// # Errors
    /// [`AdapterError`] when one is not known, they exclude each other, there is no room, or the base
    /// is packed and unpacking it was not asked for.
    pub fn merge(
        &self,
        model: &Arc<dyn CausalLm<B>>,
        adapters: &[(&str, f64)],
        options: MergeOptions<'_>,
    ) -> Result<(Arc<AdapterSet<B>>, MergeReport), AdapterError> {
        let unmerged = Adapted::new(model.clone(), self.set(adapters)?)?;
        let known = adapters.iter().map(|(name, weight)| Ok((self.get_adapter(name)?, *weight)));
        let known = known.collect::<Result<Vec<_>, AdapterError>>()?;
        let mut report = MergeReport {
            largest_error: BTreeMap::new(),
            base_bytes: 0,
            merged_bytes: 0,
            divergence: None,
        };
        let mut groups: BTreeMap<usize, Vec<Changed<'_>>> = BTreeMap::new();
        for (path, slot) in self.slots().table().iter() {
            let changes = known.iter().map(|(adapter, weight)| {
                ModuleChange::of(adapter, path, *weight).map(Option::into_iter)
            });
            let changes: Vec<_> =
                changes.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
            let deltas = unmerged.set().deltas();
            let is_replaced = deltas.is_some_and(|d| d.replacement(slot.group).is_some());
            if !changes.is_empty() || is_replaced {
                groups.entry(slot.group).or_default().push((path, slot, changes));
            }
        }
        let mut bytes = 0;
        for (&group, layers) in &groups {
            let stored = &self.slots().groups()[group];
            let [rows, columns] = stored.matrix.shape();
            let dense = (rows * columns * self.slots().dtype().size()) as u64;
            if let (Matrix::Packed(packed), false) = (&stored.matrix, options.unpack) {
                return Err(AdapterError::PackedBase {
                    module: layers[0].0.to_owned(),
                    encoding: packed.0.encoding().name(),
                    packed: stored.matrix.bytes(),
                    dense,
                });
            }
            report.base_bytes += stored.matrix.bytes();
            report.merged_bytes += dense;
            let has_bias = stored.bias.is_some();
            bytes += dense + if has_bias { (rows * DType::F32.size()) as u64 } else { 0 };
        }
        let names: Vec<_> = adapters.iter().map(|(name, _)| *name).collect();
        let names = names.join(", ");
        let claim = self.claim(&names, bytes)?;
        let mut replaced = Vec::new();
        for (group, layers) in groups {
            let merged = self.merged(&unmerged, group, &layers, &mut report.largest_error)?;
            replaced.push(merged);
        }
        let deltas = DeltaSet::new(self.slots(), [], replaced)?;
        let members = adapters.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect();
        let set = AdapterSet::new(members, Some(deltas), self.slots().clone(), Vec::new(), claim);
        let set = Arc::new(set);
        if let Some(windows) = options.sample {
            let merged = Adapted::new(model.clone(), set.clone())?;
            let mut base = BaseModel(&unmerged);
            report.divergence =
                evaluate(&merged, windows, Some(&mut base), None, |_| ())?.divergence;
        }
        Ok((set, report))
    }

    /// One stored matrix with the changes of the layers in it.
    fn merged(
        &self,
        unmerged: &Adapted<B>,
        group: usize,
        layers: &[Changed<'_>],
        largest_error: &mut BTreeMap<String, f32>,
    ) -> Result<Replacement<B>, AdapterError> {
        let (place, dtype) = (self.slots().device(), self.slots().dtype());
        let stored = &self.slots().groups()[group];
        let [rows, columns] = stored.matrix.shape();
        let replaced = unmerged.set().deltas().and_then(|deltas| deltas.replacement(group));
        let (weight, bias) = if let Some(Replacement { weight, bias, .. }) = replaced {
            (weight.cast(DType::F32), bias)
        } else {
            let bias = stored.bias.as_ref().map(|bias| bias.val().unsqueeze_dim::<2>(0));
            (stored.matrix.dense_rows(0..rows, place)?, bias)
        };
        let device = |reason: String| AdapterError::Device { what: layers[0].0.to_owned(), reason };
        let data = weight.try_into_data().map_err(|error| device(error.to_string()))?;
        let mut values: Vec<f32> = data.into_vec().map_err(|error| device(format!("{error:?}")))?;
        for (path, slot, changes) in layers {
            let range = slot.rows.start * columns..slot.rows.end * columns;
            merge_rows(&mut values[range.clone()], columns, 0, changes);
            let error = if dtype == DType::F16 {
                let rounded = |v: &f32| (v - f16::from_f32(*v).to_f32()).abs();
                values[range].par_iter().map(rounded).reduce(|| 0.0, f32::max)
            } else {
                0.0
            };
            largest_error.insert((*path).to_owned(), error);
        }
        let data = TensorData::new(values, [rows, columns]).convert_dtype(dtype);
        let weight = B::stored(Tensor::from_data(data, (place, dtype)));
        Ok(Replacement { group, weight, bias })
    }
}
