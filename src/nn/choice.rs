//! Which adapters each sequence of a batch uses, as masks on the device.

use burn::tensor::{DType, Tensor, TensorData};

use super::{Active, DeltaError, DeltaSet, Slots};
use crate::backend::Backend;

/// What a forward pass is given: adapters, and for each sequence which of them.
#[derive(Debug)]
pub struct Deltas<'a, B: Backend> {
    /// The adapters; without any, the base is run alone.
    pub set: Option<&'a DeltaSet<B>>,
    /// Which of them each sequence uses; without a choice, all use all.
    pub choice: Option<&'a Choice<B>>,
    /// For training: the share of inputs that the low-rank matrices do not see, others at random
    /// each time (`lora_dropout`).
    pub dropout: f64,
}

#[allow(clippy::expl_impl_clone_on_copy)] // derived, it would ask the same of B
impl<B: Backend> Clone for Deltas<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Deltas<'_, B> {}

impl<B: Backend> Deltas<'_, B> {
    /// No adapters.
    pub const NONE: Self = Self { set: None, choice: None, dropout: 0.0 };
}

impl<'a, B: Backend> Deltas<'a, B> {
    /// All adapters of a set, for every sequence.
    pub fn all(set: &'a DeltaSet<B>) -> Self {
        Self { set: Some(set), ..Self::NONE }
    }

    /// For a batch of `batch` sequences of `len` positions, run by the model with these slots.
    ///
    /// # Errors
    /// [`DeltaError`] when the adapters are of another model, or the choice of another batch.
    pub fn over(
        self,
        slots: &Slots<B>,
        batch: usize,
        len: usize,
    ) -> Result<Active<'a, B>, DeltaError> {
        let Some(set) = self.set else { return Ok(Active::NONE) };
        set.check_model(slots)?;
        let masks = match self.choice {
            None => None,
            Some(choice) => {
                let chosen = choice.sequences.batch;
                if chosen != batch {
                    return Err(DeltaError::Sequences { chosen, tokens: batch });
                }
                Some(Masks {
                    positions: choice.sequences.repeated(len),
                    sequences: choice.sequences.clone(),
                })
            }
        };
        Ok(Active { set: Some(set), masks, dropout: self.dropout })
    }
}

/// Which adapters of a set each sequence uses. Made once for a batch, it serves all of its steps.
#[derive(Clone, Debug)]
pub struct Choice<B: Backend> {
    sequences: Rows<B>,
}

impl<B: Backend> Choice<B> {
    /// `members[i]` are the adapters of sequence `i`, by their number in the set; none is the base
    /// alone.
    ///
    /// # Errors
    /// [`DeltaError`] when there is no such adapter, two of one sequence bring the same layer, or the
    /// set is of another model.
    pub fn new<M: AsRef<[usize]>>(
        set: &DeltaSet<B>,
        slots: &Slots<B>,
        members: &[M],
    ) -> Result<Self, DeltaError> {
        set.check_model(slots)?;
        for members in members {
            set.check_together(members.as_ref(), slots)?;
        }
        let uses = |row: &M, member: usize| f32::from(u8::from(row.as_ref().contains(&member)));
        let mask = |of_column: &[usize]| {
            let values: Vec<f32> = members
                .iter()
                .flat_map(|row| of_column.iter().map(|&member| uses(row, member)))
                .collect();
            let data = TensorData::new(values, [members.len(), of_column.len()]);
            Tensor::from_data(data, (slots.device(), DType::F32))
        };
        let sequences = Rows {
            batch: members.len(),
            columns: set.layouts().iter().map(|layout| mask(layout)).collect(),
            members: (0..set.members()).map(|member| mask(&[member])).collect(),
        };
        Ok(Self { sequences })
    }
}

/// Masks of so many rows.
#[derive(Clone, Debug)]
struct Rows<B: Backend> {
    batch: usize,
    /// By layout, `[rows, R]`.
    columns: Vec<Tensor<B, 2>>,
    /// By adapter, `[rows, 1]`.
    members: Vec<Tensor<B, 2>>,
}

impl<B: Backend> Rows<B> {
    /// Each row `times` times, one under the other.
    fn repeated(&self, times: usize) -> Self {
        let repeat = |mask: &Tensor<B, 2>| {
            if times == 1 {
                return mask.clone();
            }
            let [rows, columns] = mask.dims();
            let mask = mask.clone().unsqueeze_dim::<3>(1).repeat_dim(1, times);
            mask.reshape([rows * times, columns])
        };
        Self {
            batch: self.batch * times,
            columns: self.columns.iter().map(repeat).collect(),
            members: self.members.iter().map(repeat).collect(),
        }
    }
}

/// The masks of one pass: for all positions, and for one position a sequence, which is what the
/// output layer may see.
#[derive(Debug)]
pub(super) struct Masks<B: Backend> {
    positions: Rows<B>,
    sequences: Rows<B>,
}

impl<B: Backend> Masks<B> {
    fn of(&self, rows: usize) -> &Rows<B> {
        if rows == self.positions.batch { &self.positions } else { &self.sequences }
    }

    /// Which columns of `B` each of so many rows uses, `[rows, R]`.
    pub(super) fn columns(&self, layout: usize, rows: usize, dtype: DType) -> Tensor<B, 2> {
        as_type(&self.of(rows).columns[layout], dtype)
    }

    /// Which of so many rows use an adapter, `[rows, 1]`.
    pub(super) fn member(&self, member: usize, rows: usize, dtype: DType) -> Tensor<B, 2> {
        as_type(&self.of(rows).members[member], dtype)
    }
}

fn as_type<B: Backend>(mask: &Tensor<B, 2>, dtype: DType) -> Tensor<B, 2> {
    if mask.dtype() == dtype { mask.clone() } else { mask.clone().cast(dtype) }
}
