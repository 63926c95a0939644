//! Block-quantised weights of the CPU backend.

use std::sync::Arc;

use super::kernels::{ArrangedMatrix, PackedMatrix};
use crate::backend::{HostPacked, PackError, PackedStorage, packed::check_rows};
use crate::quant::Encoding;

/// A weight `[out, in]` as this backend multiplies with it.
#[derive(Clone, Debug)]
pub enum CpuPacked {
    /// As a file stores it, and where it does.
    Stored(HostPacked),
    /// A copy in the order in which products read it.
    Arranged(Arc<ArrangedMatrix>),
}

impl CpuPacked {
    pub(super) fn new(weight: HostPacked) -> Self {
        match matrix(&weight).as_ref().and_then(ArrangedMatrix::of) {
            Some(arranged) => Self::Arranged(Arc::new(arranged)),
            None => Self::Stored(weight),
        }
    }

    /// What a kernel takes; `None` where none takes the format.
    pub(super) fn matrix(&self) -> Option<PackedMatrix<'_>> {
        match self {
            Self::Stored(weight) => matrix(weight),
            Self::Arranged(weight) => Some(weight.view()),
        }
    }

    /// These rows as a weight of their own.
    pub(super) fn rows(&self, ids: &[u32]) -> Result<HostPacked, PackError> {
        match self {
            Self::Stored(weight) => weight.rows(ids),
            Self::Arranged(weight) => {
                let [rows, columns] = weight.shape();
                check_rows(ids, rows)?;
                let bytes = weight.rows(ids.iter().map(|&id| id as usize));
                HostPacked::new(bytes, [ids.len(), columns], weight.encoding())
            }
        }
    }
}

impl PackedStorage for CpuPacked {
    fn shape(&self) -> [usize; 2] {
        match self {
            Self::Stored(weight) => weight.shape(),
            Self::Arranged(weight) => weight.shape(),
        }
    }

    fn encoding(&self) -> Encoding {
        match self {
            Self::Stored(weight) => weight.encoding(),
            Self::Arranged(weight) => weight.encoding(),
        }
    }

    fn to_host(&self) -> Result<HostPacked, PackError> {
        match self {
            Self::Stored(weight) => Ok(weight.clone()),
            Self::Arranged(weight) => {
                let shape = weight.shape();
                HostPacked::new(weight.rows(0..shape[0]), shape, weight.encoding())
            }
        }
    }
}

fn matrix(weight: &HostPacked) -> Option<PackedMatrix<'_>> {
    let [outputs, inputs] = weight.shape();
    PackedMatrix::new(weight.bytes(), weight.encoding(), outputs, inputs).ok()
}
