//! The places of a model where an adapter can step in: its linear layers and embeddings, by the
//! paths of their weights.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use burn::{
    module::Param,
    tensor::{DType, Tensor},
};

use super::Matrix;
use crate::backend::Backend;

/// What stands at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotKind {
    /// A linear layer.
    Linear,
    /// A token embedding.
    Embedding,
}

/// A layer that an adapter can change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// What it is.
    pub kind: SlotKind,
    /// Which stored matrix it is a part of: layers of one input may share one.
    pub group: usize,
    /// Its rows there; as many as it has outputs (or tokens, as an embedding).
    pub rows: Range<usize>,
    /// Its inputs (or the width of an embedding).
    pub columns: usize,
    /// Whether it adds a bias.
    pub bias: bool,
    /// Whether its weight is another slot's (an output layer tied to the token embedding).
    pub tied: bool,
}

impl Slot {
    /// The shape of its weight: `[out, in]`, or `[vocabulary, width]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows.len(), self.columns]
    }
}

/// The slots of a model, by path: `model.layers.0.self_attn.q_proj`.
#[derive(Clone, Debug, Default)]
pub struct SlotTable {
    by_path: BTreeMap<String, Slot>,
}

impl SlotTable {
    /// Adds a slot.
    pub fn insert(&mut self, path: String, slot: Slot) {
        self.by_path.insert(path, slot);
    }

    /// The slot at a path.
    pub fn get(&self, path: &str) -> Option<&Slot> {
        self.by_path.get(path)
    }

    /// Every slot, in the order of the paths.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Slot)> {
        self.by_path.iter().map(|(path, slot)| (path.as_str(), slot))
    }
}

/// A stored matrix and the bias that belongs to it.
#[derive(Clone, Debug)]
pub struct Stored<B: Backend> {
    /// `[out, in]`; of layers that share it, one's rows under the other's.
    pub matrix: Matrix<B>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<B, 1>>>,
}

/// The slots of one loaded model, with handles of the weights that stand there.
#[derive(Clone, Debug)]
pub struct Slots<B: Backend> {
    id: u64,
    device: B::Device,
    dtype: DType,
    table: SlotTable,
    groups: Vec<Stored<B>>,
}

impl<B: Backend> Slots<B> {
    /// Those of a model that is about to be loaded.
    pub(super) fn new(device: B::Device, dtype: DType) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { id, device, dtype, table: SlotTable::default(), groups: Vec::new() }
    }

    /// Where the model is.
    pub fn device(&self) -> &B::Device {
        &self.device
    }

    /// How its matrices are stored, unless they are packed.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The type of an adapter's low-rank matrices beside a stored matrix.
    pub fn low_rank_dtype(&self, group: usize) -> DType {
        B::low_rank_dtype(self.dtype, matches!(self.groups[group].matrix, Matrix::Packed(_)))
    }

    /// Tells one loaded model from another.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Names and shapes.
    pub fn table(&self) -> &SlotTable {
        &self.table
    }

    /// The stored matrices; [`Slot::group`] counts them.
    pub fn groups(&self) -> &[Stored<B>] {
        &self.groups
    }

    /// The paths of the slots in one stored matrix.
    pub fn paths(&self, group: usize) -> impl Iterator<Item = &str> {
        self.table.iter().filter(move |(_, slot)| slot.group == group).map(|(path, _)| path)
    }

    /// Adds a stored matrix and the layers in it (path and outputs), and counts it.
    pub(super) fn add(
        &mut self,
        kind: SlotKind,
        tied: bool,
        stored: Stored<B>,
        layers: impl IntoIterator<Item = (String, usize)>,
    ) -> usize {
        let (group, bias) = (self.groups.len(), stored.bias.is_some());
        let [_, columns] = stored.matrix.shape();
        let mut first = 0;
        for (path, outputs) in layers {
            let rows = first..first + outputs;
            first = rows.end;
            self.table.insert(path, Slot { kind, group, rows, columns, bias, tied });
        }
        self.groups.push(stored);
        group
    }
}
