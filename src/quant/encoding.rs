//! The names and block sizes of the storage formats (source: ggml's type traits table).

use std::fmt;

/// How values are stored.
///
/// The plain floats have blocks of one value. All formats are little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Encoding {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
    /// 32 values: an f16 scale, then 32 signed bytes; `value = scale * q`.
    Q8_0,
    /// 32 values: an f16 scale, then 32 nibbles; `value = scale * (q - 8)`.
    Q4_0,
    /// 32 values: an f16 scale, an f16 minimum, then 32 nibbles; `value = scale * q + minimum`.
    Q4_1,
}

impl Encoding {
    /// Every format, in no particular order.
    pub const ALL: [Self; 6] =
        [Self::F32, Self::F16, Self::BF16, Self::Q8_0, Self::Q4_0, Self::Q4_1];

    /// The name that ggml, and safetensors where it has one, give the format.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
        }
    }

    /// Values in one block.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 => 32,
        }
    }

    /// Bytes in one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
        }
    }

    /// Bytes that `elements` values take; `None` when they are not whole blocks, or on overflow.
    pub const fn bytes_for(self, elements: usize) -> Option<usize> {
        if !elements.is_multiple_of(self.block_len()) {
            return None;
        }
        (elements / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Whether several values share one block, so that single values have no address.
    pub const fn is_packed(self) -> bool {
        self.block_len() > 1
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_for_wants_whole_blocks() {
        assert_eq!(Encoding::F32.bytes_for(3), Some(12));
        assert_eq!(Encoding::BF16.bytes_for(3), Some(6));
        assert_eq!(Encoding::Q8_0.bytes_for(64), Some(68));
        assert_eq!(Encoding::Q4_0.bytes_for(64), Some(36));
        assert_eq!(Encoding::Q4_1.bytes_for(64), Some(40));
        assert_eq!(Encoding::Q4_0.bytes_for(0), Some(0));
        assert_eq!(Encoding::Q4_0.bytes_for(33), None);
        assert_eq!(Encoding::F32.bytes_for(usize::MAX), None);
    }

    #[test]
    fn only_block_formats_are_packed() {
        let packed: Vec<&str> = Encoding::ALL
            .into_iter()
            .filter(|encoding| encoding.is_packed())
            .map(Encoding::name)
            .collect();
        assert_eq!(packed, ["Q8_0", "Q4_0", "Q4_1"]);
    }
}
