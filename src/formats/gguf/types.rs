//! The storage types that GGUF tensors can have (source: `enum ggml_type` and the type traits of
//! `ggml.c`; gguf-py's `GGML_QUANT_SIZES` agrees, but for `Q8_1`, which no file holds).
//!
//! All are known by name and size, so that a file can be inspected; those with an [`Encoding`] can
//! be loaded.

use crate::quant::Encoding;

/// A ggml storage type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GgmlType {
    /// The number in the file.
    pub id: u32,
    /// ggml's name.
    pub name: &'static str,
    /// Values in one block.
    pub block_len: u64,
    /// Bytes in one block.
    pub block_bytes: u64,
}

/// What a type number in a file stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypeId {
    /// A type of today's ggml.
    Known(&'static GgmlType),
    /// A type that ggml once had, by its name then.
    Removed(&'static str),
    /// No type that this table knows.
    Unknown,
}

impl GgmlType {
    /// What the number `id` stands for.
    pub fn from_id(id: u32) -> TypeId {
        if let Some(found) = TYPES.iter().find(|ty| ty.id == id) {
            return TypeId::Known(found);
        }
        match REMOVED.iter().find(|(removed, _)| *removed == id) {
            Some((_, name)) => TypeId::Removed(name),
            None => TypeId::Unknown,
        }
    }

    /// How values of this format are stored.
    ///
    /// # Panics
    /// Never: every encoding is a type (a test holds the two tables together).
    pub fn of(encoding: Encoding) -> &'static Self {
        TYPES.iter().find(|ty| ty.name == encoding.name()).expect("every encoding is a type")
    }

    /// The format that decodes it, if there is one here.
    pub fn encoding(&self) -> Option<Encoding> {
        Encoding::from_name(self.name)
    }

    /// Bytes of `elements` values; `None` when they are not whole blocks, or on overflow.
    pub fn bytes_for(&self, elements: u64) -> Option<u64> {
        if !elements.is_multiple_of(self.block_len) {
            return None;
        }
        (elements / self.block_len).checked_mul(self.block_bytes)
    }
}

const fn ty(id: u32, name: &'static str, block_len: u64, block_bytes: u64) -> GgmlType {
    GgmlType { id, name, block_len, block_bytes }
}

static TYPES: [GgmlType; 34] = [
    ty(0, "F32", 1, 4),
    ty(1, "F16", 1, 2),
    ty(2, "Q4_0", 32, 18),
    ty(3, "Q4_1", 32, 20),
    ty(6, "Q5_0", 32, 22),
    ty(7, "Q5_1", 32, 24),
    ty(8, "Q8_0", 32, 34),
    ty(9, "Q8_1", 32, 36),
    ty(10, "Q2_K", 256, 84),
    ty(11, "Q3_K", 256, 110),
    ty(12, "Q4_K", 256, 144),
    ty(13, "Q5_K", 256, 176),
    ty(14, "Q6_K", 256, 210),
    ty(15, "Q8_K", 256, 292),
    ty(16, "IQ2_XXS", 256, 66),
    ty(17, "IQ2_XS", 256, 74),
    ty(18, "IQ3_XXS", 256, 98),
    ty(19, "IQ1_S", 256, 50),
    ty(20, "IQ4_NL", 32, 18),
    ty(21, "IQ3_S", 256, 110),
    ty(22, "IQ2_S", 256, 82),
    ty(23, "IQ4_XS", 256, 136),
    ty(24, "I8", 1, 1),
    ty(25, "I16", 1, 2),
    ty(26, "I32", 1, 4),
    ty(27, "I64", 1, 8),
    ty(28, "F64", 1, 8),
    ty(29, "IQ1_M", 256, 56),
    ty(30, "BF16", 1, 2),
    ty(34, "TQ1_0", 256, 54),
    ty(35, "TQ2_0", 256, 66),
    ty(39, "MXFP4", 32, 17),
    ty(40, "NVFP4", 64, 36),
    ty(41, "Q1_0", 128, 18),
];

static REMOVED: [(u32, &str); 8] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoding_is_a_type_of_the_same_size() {
        for encoding in Encoding::ALL {
            let ty = TYPES.iter().find(|ty| ty.name == encoding.name()).unwrap();
            assert_eq!(ty.encoding(), Some(encoding));
            assert_eq!(ty.block_len, encoding.block_len() as u64);
            assert_eq!(ty.block_bytes, encoding.block_bytes() as u64);
        }
    }

    #[test]
    fn numbers_are_unique_and_complete() {
        for id in 0..=41 {
            let known = TYPES.iter().filter(|ty| ty.id == id).count();
            let removed = REMOVED.iter().filter(|(removed, _)| *removed == id).count();
            assert_eq!(known + removed, 1, "{id}");
        }
        assert_eq!(GgmlType::from_id(4), TypeId::Removed("Q4_2"));
        assert_eq!(GgmlType::from_id(42), TypeId::Unknown);
    }
}
