//! An adapter on its way to a device.

use std::collections::BTreeMap;

use burn::tensor::{DType, Tensor, TensorData};

use super::{Adapter, AdapterError, LowRankTensors, Rules};
use crate::{
    backend::Backend,
    formats::RawTensor,
    nn::{DeltaSet, LowRank, Replacement, Slot, SlotKind, Slots},
};

/// The model that adapters are put on.
#[derive(Debug)]
pub(super) struct Place<'a, B: Backend>(pub &'a Slots<B>);

impl<B: Backend> Place<'_, B> {
    /// An adapter that belongs here ([`Adapter::check_base`]).
    pub fn upload(&self, adapter: &Adapter) -> Result<DeltaSet<B>, AdapterError> {
        let rules = Rules::new(&adapter.config, &adapter.file)?;
        let mut modules = Vec::new();
        for (module, tensors) in &adapter.modules {
            let low = self.low_rank(adapter, tensors, rules.scaling(module)?)?;
            modules.extend(self.0.table().get(module).map(|slot| (slot, low)));
        }
        let mut replaced = Vec::new();
        for (group, saved) in self.saved(adapter) {
            replaced.push(self.replacement(adapter, group, &saved)?);
        }
        Ok(DeltaSet::new(self.0, modules, replaced)?.stored_for(self.0))
    }

    /// Bytes that it takes on the device.
    pub fn bytes(&self, adapter: &Adapter) -> u64 {
        let table = self.0.table();
        let mut groups: BTreeMap<usize, (usize, bool)> = BTreeMap::new();
        for (module, tensors) in &adapter.modules {
            let Some(slot) = table.get(module) else { continue };
            let (rank, has_gain) = groups.entry(slot.group).or_default();
            *rank += tensors.rank();
            *has_gain |= tensors.magnitude.is_some();
        }
        let shape = |group: usize| self.0.groups()[group].matrix.shape();
        let factors = groups.iter().map(|(&group, &(rank, has_gain))| {
            let [outputs, inputs] = shape(group);
            let gain = if has_gain { 5 * outputs * DType::F32.size() } else { 0 };
            rank * (outputs + inputs) * self.0.low_rank_dtype(group).size() + gain
        });
        let whole = self.saved(adapter).into_keys().map(|group| {
            let [outputs, inputs] = shape(group);
            let has_bias = self.0.groups()[group].bias.is_some();
            let bias = if has_bias { outputs * DType::F32.size() } else { 0 };
            outputs * inputs * self.0.dtype().size() + bias
        });
        (factors.sum::<usize>() + whole.sum::<usize>()) as u64
    }

    fn low_rank(
        &self,
        adapter: &Adapter,
        LowRankTensors { a, b, magnitude }: &LowRankTensors,
        scale: f64,
    ) -> Result<LowRank<B>, AdapterError> {
        let magnitude = match magnitude {
            Some(magnitude) => Some(self.tensor(adapter, magnitude, [magnitude.elements()])?),
            None => None,
        };
        Ok(LowRank {
            a: self.tensor(adapter, a, [a.shape[0], a.shape[1]])?,
            b: self.tensor(adapter, b, [b.shape[0], b.shape[1]])?,
            scale,
            magnitude,
        })
    }

    fn tensor<const D: usize>(
        &self,
        adapter: &Adapter,
        tensor: &RawTensor,
        shape: [usize; D],
    ) -> Result<Tensor<B, D>, AdapterError> {
        let data = TensorData::new(adapter.values(tensor)?, shape);
        Ok(Tensor::from_data(data, (self.0.device(), DType::F32)))
    }

    /// The saved tensors by the stored matrix that they replace, or replace a part of.
    fn saved<'t>(&self, adapter: &'t Adapter) -> BTreeMap<usize, Vec<(Slot, bool, &'t RawTensor)>> {
        let table = self.0.table();
        let mut groups: BTreeMap<usize, Vec<_>> = BTreeMap::new();
        for (name, tensor) in &adapter.saved {
            let Some((module, part)) = name.rsplit_once('.') else { continue };
            let Some(slot) = table.get(module) else { continue };
            groups.entry(slot.group).or_default().push((slot.clone(), part == "bias", tensor));
            // Where the base ties them and the adapter was trained so, the output layer goes along.
            if slot.kind == SlotKind::Embedding && adapter.config.ties_weights() {
                for (path, output) in table.iter().filter(|(_, output)| output.tied) {
                    if !adapter.saved.contains_key(&format!("{path}.weight")) {
                        let follows = (output.clone(), false, tensor);
                        groups.entry(output.group).or_default().push(follows);
                    }
                }
            }
        }
        groups
    }

    /// A stored matrix with the saved parts in it, and the base's between them.
    fn replacement(
        &self,
        adapter: &Adapter,
        group: usize,
        saved: &[(Slot, bool, &RawTensor)],
    ) -> Result<Replacement<B>, AdapterError> {
        let base = &self.0.groups()[group];
        let [outputs, inputs] = base.matrix.shape();
        let is_whole =
            saved.iter().any(|(slot, is_bias, _)| !is_bias && slot.rows.len() == outputs);
        let mut weight = if is_whole {
            Tensor::zeros([0, 0], (self.0.device(), DType::F32))
        } else {
            base.matrix.dense_rows(0..outputs, self.0.device())?
        };
        let mut bias = base.bias.as_ref().map(|bias| bias.val().unsqueeze_dim::<2>(0));
        for (slot, is_bias, tensor) in saved {
            let rows = slot.rows.clone();
            if *is_bias {
                let values = self.tensor(adapter, tensor, [1, rows.len()])?;
                bias = bias.map(|bias| bias.slice_assign([0..1, rows], values));
            } else {
                let values = self.tensor(adapter, tensor, [rows.len(), inputs])?;
                weight =
                    if is_whole { values } else { weight.slice_assign([rows, 0..inputs], values) };
            }
        }
        Ok(Replacement { group, weight: B::stored(weight.cast(self.0.dtype())), bias })
    }
}
