//! A weight matrix as it is held on a device: dense, or in the blocks of its file.

use burn::{
    module::{
        AutodiffModule, Content, Devices, EmptyRecord, Module, ModuleDisplay, ModuleDisplayDefault,
        ModuleMapper, ModuleVisitor, Param,
    },
    tensor::{DType, Tensor, backend::AutodiffBackend},
};

use crate::backend::{Backend, PackError, PackedStorage, Weight};

/// `[out, in]`.
#[derive(Module, Debug)]
pub enum Matrix<B: Backend> {
    /// One number after the other.
    Dense(Param<Tensor<B, 2>>),
    /// Blocks, frozen: there is nothing to train in them.
    Packed(PackedWeight<B>),
}

impl<B: Backend> Matrix<B> {
    /// `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Dense(weight) => weight.val().dims(),
            Self::Packed(weight) => weight.0.shape(),
        }
    }

    /// Bytes of its values on the device.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Dense(weight) => {
                let weight = weight.val();
                (weight.shape().num_elements() * weight.dtype().size()) as u64
            }
            Self::Packed(weight) => {
                let [rows, columns] = weight.0.shape();
                rows as u64 * weight.0.encoding().bytes_for(columns).unwrap_or(0) as u64
            }
        }
    }

    /// Some of its rows as f32, `[rows, in]`.
    ///
    /// # Errors
    /// [`PackError`] where the backend cannot read the blocks.
    pub fn dense_rows(
        &self,
        rows: std::ops::Range<usize>,
        device: &B::Device,
    ) -> Result<Tensor<B, 2>, PackError> {
        match self {
            Self::Dense(weight) => Ok(weight.val().slice([rows]).cast(DType::F32)),
            Self::Packed(weight) => {
                let ids: Vec<u32> = rows.map(|row| row as u32).collect();
                B::packed_rows(&weight.0, &ids, device, DType::F32)
            }
        }
    }

    /// `x · wᵀ`, `[rows, in]` to `[rows, out]`.
    ///
    /// # Errors
    /// [`PackError`] where the backend cannot use the blocks.
    pub fn product(
        &self,
        x: Tensor<B, 2>,
        bias: Option<Tensor<B, 1>>,
    ) -> Result<Tensor<B, 2>, PackError> {
        match self {
            Self::Dense(weight) => Ok(B::dense_linear(x, weight.val(), bias)),
            Self::Packed(weight) => B::packed_linear(x, &weight.0, bias),
        }
    }

    /// As the backend takes it.
    pub(super) fn weight(&self) -> Weight<'_, B> {
        match self {
            Self::Dense(weight) => Weight::Dense(weight.val()),
            Self::Packed(weight) => Weight::Packed(&weight.0),
        }
    }

    /// Rows `ids`, `[ids, in]` in `dtype`.
    ///
    /// # Errors
    /// As [`product`](Self::product), and [`PackError::RowOutOfRange`].
    pub fn rows(
        &self,
        ids: &[u32],
        device: &B::Device,
        dtype: DType,
    ) -> Result<Tensor<B, 2>, PackError> {
        match self {
            Self::Dense(weight) => Ok(B::dense_rows(weight.val(), ids, dtype)),
            Self::Packed(weight) => B::packed_rows(&weight.0, ids, device, dtype),
        }
    }
}

/// Blocks as a module of burn that has no parameters: nothing to visit, to record or to move.
#[derive(Clone, Debug)]
pub struct PackedWeight<B: Backend>(pub B::Packed);

impl<B: Backend> Module<B> for PackedWeight<B> {
    type Record = EmptyRecord;

    fn collect_devices(&self, devices: Devices<B>) -> Devices<B> {
        devices
    }

    fn fork(self, _device: &B::Device) -> Self {
        self
    }

    fn to_device(self, _device: &B::Device) -> Self {
        self
    }

    fn visit<V: ModuleVisitor<B>>(&self, _visitor: &mut V) {}

    fn map<M: ModuleMapper<B>>(self, _mapper: &mut M) -> Self {
        self
    }

    fn load_record(self, _record: EmptyRecord) -> Self {
        self
    }

    fn into_record(self) -> EmptyRecord {
        EmptyRecord::new()
    }
}

/// Every backend with gradients shares the storage of the one it is built on.
fn same<P: PackedStorage, Q: PackedStorage>(storage: &P) -> Q {
    let any: &dyn std::any::Any = storage;
    any.downcast_ref::<Q>().expect("Autodiff<B>::Packed is B::Packed").clone()
}

impl<B> AutodiffModule<B> for PackedWeight<B>
where
    B: Backend + AutodiffBackend<InnerBackend: Backend>,
{
    type InnerModule = PackedWeight<B::InnerBackend>;

    fn valid(&self) -> Self::InnerModule {
        PackedWeight(same(&self.0))
    }

    fn from_inner(module: Self::InnerModule) -> Self {
        Self(same(&module.0))
    }
}

impl<B: Backend> ModuleDisplayDefault for PackedWeight<B> {
    fn content(&self, content: Content) -> Option<Content> {
        let [rows, columns] = self.0.shape();
        let encoding = self.0.encoding().name();
        content.add_formatted(&format!("{encoding} [{rows}, {columns}]")).optional()
    }
}

impl<B: Backend> ModuleDisplay for PackedWeight<B> {}
