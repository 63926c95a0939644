//! Adapters that nobody trained: for timing, and for examples.

use std::path::PathBuf;

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

use super::{Adapter, AdapterError, LoraConfig, LowRankTensors, Rules};
use crate::{
    formats::RawTensor,
    nn::{SlotKind, SlotTable},
    quant::Encoding,
};

impl Adapter {
    /// Random low-rank matrices for every module of a base that the configuration targets, the same
    /// for the same seed: `A` as PEFT initialises it (evenly within `±1/√in`), `B` within `±size`
    /// (which PEFT begins with at zero), and magnitudes around 1 where it is a `DoRA`.
    ///
    /// # Errors
    /// [`AdapterError::Config`] for a pattern that is no regular expression.
    pub fn random(
        config: LoraConfig,
        base: &SlotTable,
        size: f32,
        seed: u64,
    ) -> Result<Self, AdapterError> {
        let file = PathBuf::from("random adapter");
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut tensor = |name: String, shape: &[usize], middle: f32, range: f32| {
            let values = (0..shape.iter().product()).flat_map(|_| {
                let unit = (random.next_u32() >> 8) as f32 / (1u32 << 23) as f32 - 1.0;
                (middle + range * unit).to_le_bytes()
            });
            let bytes = values.collect::<Vec<u8>>().into();
            RawTensor { name, shape: shape.to_vec(), encoding: Encoding::F32, bytes }
        };
        let mut adapter = Self { config, modules: [].into(), saved: [].into(), file };
        let rules = Rules::new(&adapter.config, &adapter.file)?;
        for (module, slot) in base.iter() {
            if slot.kind != SlotKind::Linear || !rules.targets(module)? {
                continue;
            }
            let ([outputs, inputs], rank) = (slot.shape(), rules.rank(module)?);
            let name = |part: &str| format!("{module}.{part}");
            let range = 1.0 / (inputs as f32).sqrt();
            let low = LowRankTensors {
                a: tensor(name("lora_A.weight"), &[rank, inputs], 0.0, range),
                b: tensor(name("lora_B.weight"), &[outputs, rank], 0.0, size),
                magnitude: adapter
                    .config
                    .use_dora
                    .then(|| tensor(name("lora_magnitude_vector"), &[outputs], 1.0, 0.1)),
            };
            adapter.modules.insert(module.to_owned(), low);
        }
        Ok(adapter)
    }
}
