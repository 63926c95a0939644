//! The names and block sizes of the storage formats (source: ggml's type traits table).

use std::fmt;

use half::f16;

use super::{iq1_m, mxfp4, nvfp4};

/// How values are stored.
///
/// The plain floats have blocks of one value. All formats are little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(non_camel_case_types)] // ggml's names, letter for letter
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
    /// 32 values: as `Q4_0` with a fifth bit each; `value = scale * (q - 16)`.
    Q5_0,
    /// 32 values: as `Q4_1` with a fifth bit each; `value = scale * q + minimum`.
    Q5_1,
    /// 256 values in groups of 16: 2 bits each, a scale and a minimum of 4 bits a group;
    /// `value = scale * q - minimum`.
    Q2_K,
    /// 256 values in groups of 16: 3 bits each, a scale of 6 bits a group;
    /// `value = scale * (q - 4)`.
    Q3_K,
    /// 256 values in groups of 32: 4 bits each, a scale and a minimum of 6 bits a group;
    /// `value = scale * q - minimum`.
    Q4_K,
    /// 256 values in groups of 32: 5 bits each, a scale and a minimum of 6 bits a group;
    /// `value = scale * q - minimum`.
    Q5_K,
    /// 256 values in groups of 16: 6 bits each, a scale of 8 bits a group;
    /// `value = scale * (q - 32)`.
    Q6_K,
    /// 32 values: an f16 scale, then 32 nibbles that choose one of 16 uneven levels;
    /// `value = scale * level`.
    IQ4_NL,
    /// 256 values in groups of 32: the levels of `IQ4_NL`, a scale of 6 bits a group;
    /// `value = scale * level`.
    IQ4_XS,
    /// 256 values in groups of 32: a scale of 4 bits a group, and for each 8 values one of 256 points
    /// of a grid and their signs; `value = scale * point`.
    IQ2_XXS,
    /// 256 values in groups of 16: as `IQ2_XXS` with 512 points.
    IQ2_XS,
    /// 256 values in groups of 16: as `IQ2_XXS` with 1024 points.
    IQ2_S,
    /// 256 values in groups of 32: as `IQ2_XXS` with one of 256 points for each 4 values.
    IQ3_XXS,
    /// 256 values in groups of 32: as `IQ3_XXS` with 512 points.
    IQ3_S,
    /// 256 values in groups of 32: a scale of 3 bits and a shift of ±1/8 a group, and for each 8
    /// values one of 2048 points of -1, 0 and 1; `value = scale * (point + shift)`.
    IQ1_S,
    /// 256 values in groups of 16: the points of `IQ1_S`, with a shift for each 8 values.
    IQ1_M,
    /// 256 values: ternary digits, five to a byte, and an f16 scale; `value = scale * (q - 1)`.
    TQ1_0,
    /// 256 values: 2 bits each, and an f16 scale; `value = scale * (q - 1)`.
    TQ2_0,
    /// 32 values: a power of two, then 32 floats of 4 bits; `value = scale * float`.
    MXFP4,
    /// 64 values in groups of 16: a scale of 7 bits a group, then 64 floats of 4 bits;
    /// `value = scale * float`.
    NVFP4,
}

impl Encoding {
    /// Every format, in no particular order.
    pub const ALL: [Self; 26] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::IQ4_NL,
        Self::IQ4_XS,
        Self::IQ2_XXS,
        Self::IQ2_XS,
        Self::IQ2_S,
        Self::IQ3_XXS,
        Self::IQ3_S,
        Self::IQ1_S,
        Self::IQ1_M,
        Self::TQ1_0,
        Self::TQ2_0,
        Self::MXFP4,
        Self::NVFP4,
    ];

    /// The name that ggml, and safetensors where it has one, give the format.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q2_K => "Q2_K",
            Self::Q3_K => "Q3_K",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
            Self::IQ4_NL => "IQ4_NL",
            Self::IQ4_XS => "IQ4_XS",
            Self::IQ2_XXS => "IQ2_XXS",
            Self::IQ2_XS => "IQ2_XS",
            Self::IQ2_S => "IQ2_S",
            Self::IQ3_XXS => "IQ3_XXS",
            Self::IQ3_S => "IQ3_S",
            Self::IQ1_S => "IQ1_S",
            Self::IQ1_M => "IQ1_M",
            Self::TQ1_0 => "TQ1_0",
            Self::TQ2_0 => "TQ2_0",
            Self::MXFP4 => "MXFP4",
            Self::NVFP4 => "NVFP4",
        }
    }

    /// The format of that name, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|encoding| encoding.name().eq_ignore_ascii_case(name))
    }

    /// Values in one block.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0
            | Self::Q4_0
            | Self::Q4_1
            | Self::Q5_0
            | Self::Q5_1
            | Self::IQ4_NL
            | Self::MXFP4 => 32,
            Self::NVFP4 => 64,
            _ => 256,
        }
    }

    /// Bytes in one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 | Self::IQ4_NL => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q2_K => 84,
            Self::Q3_K | Self::IQ3_S => 110,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
            Self::IQ4_XS => 136,
            Self::IQ2_XXS | Self::TQ2_0 => 66,
            Self::IQ2_XS => 74,
            Self::IQ2_S => 82,
            Self::IQ3_XXS => 98,
            Self::IQ1_S => 50,
            Self::IQ1_M => 56,
            Self::TQ1_0 => 54,
            Self::MXFP4 => 17,
            Self::NVFP4 => 36,
        }
    }

    /// Where a block's scales (and minimums) of f16 lie, in bytes from its start.
    const fn f16_fields(self) -> &'static [usize] {
        match self {
            Self::F32 | Self::F16 | Self::BF16 | Self::IQ1_M | Self::MXFP4 | Self::NVFP4 => &[],
            Self::Q4_1 | Self::Q5_1 | Self::Q4_K | Self::Q5_K => &[0, 2],
            Self::Q2_K => &[80, 82],
            Self::Q3_K => &[108],
            Self::Q6_K => &[208],
            Self::TQ1_0 => &[52],
            Self::TQ2_0 => &[64],
            _ => &[0],
        }
    }

    /// Makes `scale` what the values of a block are multiples of (its minimums too), or the nearest
    /// number that the format has for it: f16, but for `MXFP4` and `NVFP4`.
    pub(crate) fn set_scale(self, block: &mut [u8], scale: f32) {
        match self {
            Self::IQ1_M => iq1_m::set_scale(block, f16::from_f32(scale)),
            Self::MXFP4 => mxfp4::set_scale(block, scale),
            Self::NVFP4 => nvfp4::set_scale(block, scale),
            _ => {
                for &at in self.f16_fields() {
                    block[at..at + 2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
                }
            }
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
        assert_eq!(Encoding::Q6_K.bytes_for(512), Some(420));
        assert_eq!(Encoding::Q6_K.bytes_for(32), None);
        assert_eq!(Encoding::Q4_0.bytes_for(0), Some(0));
        assert_eq!(Encoding::Q4_0.bytes_for(33), None);
        assert_eq!(Encoding::F32.bytes_for(usize::MAX), None);
    }

    #[test]
    fn only_block_formats_are_packed() {
        let plain: Vec<&str> = Encoding::ALL
            .into_iter()
            .filter(|encoding| !encoding.is_packed())
            .map(Encoding::name)
            .collect();
        assert_eq!(plain, ["F32", "F16", "BF16"]);
    }
}
