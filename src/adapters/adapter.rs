//! An adapter as its file holds it, on the host: what every file format is read into.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{AdapterError, LoraConfig, Rules, gguf, mlx, peft};
use crate::{
    formats::{RawTensor, similar_names},
    models::DecoderConfig,
    nn::{Slot, SlotKind, SlotTable},
    quant,
};

/// The low-rank matrices of one module: its weight changes by `s · B · A`.
#[derive(Clone, Debug)]
pub struct LowRankTensors {
    /// `A`, `[r, in]`.
    pub a: RawTensor,
    /// `B`, `[out, r]`.
    pub b: RawTensor,
    /// `DoRA`'s magnitude, `[out]`.
    pub magnitude: Option<RawTensor>,
}

impl LowRankTensors {
    /// The rank: rows of `A`.
    pub fn rank(&self) -> usize {
        self.a.shape[0]
    }
}

/// A LoRA adapter: its configuration and its tensors, as they are stored.
///
/// Modules are called by the paths that [`Weights`](crate::nn::Weights) uses:
/// `model.layers.0.self_attn.q_proj`.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// What it was trained as.
    pub config: LoraConfig,
    /// The low-rank matrices, by module.
    pub modules: BTreeMap<String, LowRankTensors>,
    /// Tensors that replace the base's, by their names there: `lm_head.weight`.
    pub saved: BTreeMap<String, RawTensor>,
    /// The file that it was read from, to name in messages.
    pub file: PathBuf,
}

impl Adapter {
    /// Reads the folder of an adapter, as PEFT or mlx-lm write it.
    ///
    /// # Errors
    /// [`AdapterError`] for files that cannot be read, or tensors that are not what the
    /// configuration says.
    pub fn open(path: &Path) -> Result<Self, AdapterError> {
        if path.join(mlx::WEIGHTS_FILE).is_file() && !path.join(peft::WEIGHTS_FILE).is_file() {
            mlx::read(path)
        } else {
            peft::read(path)
        }
    }

    /// Reads an adapter for models of the configuration `base`: a folder, as [`open`](Self::open)
    /// does, or a GGUF file as llama.cpp has them.
    ///
    /// # Errors
    /// As [`open`](Self::open), and for a GGUF file of another architecture.
    pub fn open_for(path: &Path, base: &DecoderConfig) -> Result<Self, AdapterError> {
        if path.is_file() { gguf::read(path, base) } else { Self::open(path) }
    }

    /// Writes a folder for PEFT. What was read from one is written again as it was.
    ///
    /// # Errors
    /// [`AdapterError::Format`] when the system refuses.
    pub fn save(&self, folder: &Path) -> Result<(), AdapterError> {
        peft::write(self, folder)
    }

    /// What the product `B · A` of a module is multiplied with.
    ///
    /// # Errors
    /// [`AdapterError::Config`] for a pattern that is no regular expression.
    pub fn scaling(&self, module: &str) -> Result<f64, AdapterError> {
        Rules::new(&self.config, &self.file)?.scaling(module)
    }

    /// The values of one of its tensors.
    ///
    /// # Errors
    /// [`AdapterError::Decode`] when the bytes are not those of the shape.
    pub fn values(&self, tensor: &RawTensor) -> Result<Vec<f32>, AdapterError> {
        let mut values = vec![0.0; tensor.elements()];
        quant::dequantize(tensor.encoding, &tensor.bytes, &mut values).map_err(|source| {
            AdapterError::Decode { file: self.file.clone(), tensor: tensor.name.clone(), source }
        })?;
        Ok(values)
    }

    /// Checks that the tensors are those that the configuration speaks of: ranks, magnitudes, and
    /// nothing that it does not target.
    ///
    /// # Errors
    /// [`AdapterError`] naming the tensor, what was expected and what was found.
    pub fn check(&self) -> Result<(), AdapterError> {
        let rules = Rules::new(&self.config, &self.file)?;
        for (module, tensors) in &self.modules {
            if !rules.targets(module)? {
                let expected = "only modules that the configuration targets";
                return Err(self.unexpected(&tensors.a, expected));
            }
            self.check_module(tensors, rules.rank(module)?)?;
        }
        for (name, tensor) in &self.saved {
            let module = name.rsplit_once('.').map_or(name.as_str(), |(module, _)| module);
            // PEFT also stores embeddings and output layers whose vocabulary was resized.
            let resized = ["embed_tokens", "lm_head"].iter().any(|end| module.ends_with(end));
            if !rules.saves(module)? && !resized {
                let expected = "low-rank matrices, or modules that modules_to_save names";
                return Err(self.unexpected(tensor, expected));
            }
        }
        Ok(())
    }

    fn check_module(&self, tensors: &LowRankTensors, rank: usize) -> Result<(), AdapterError> {
        let LowRankTensors { a, b, magnitude } = tensors;
        let why = format!("rank {rank} by the configuration");
        let columns = |tensor: &RawTensor| tensor.shape.last().copied().unwrap_or(0);
        self.check_shape(a, &[rank, columns(a)], &why)?;
        let outputs = b.shape.first().copied().unwrap_or(0);
        self.check_shape(b, &[outputs, rank], &why)?;
        match magnitude {
            Some(magnitude) if self.config.use_dora => {
                self.check_shape(magnitude, &[outputs], "one magnitude a row of lora_B")
            }
            Some(magnitude) => Err(self.unexpected(magnitude, "no magnitudes without use_dora")),
            None if self.config.use_dora => Err(AdapterError::Missing {
                file: self.file.clone(),
                tensor: b.name.replace("lora_B.weight", "lora_magnitude_vector"),
                expected: format!("[{outputs}]"),
                why: "the configuration says use_dora".to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// Checks that the adapter belongs to a base with these slots: it has a place and the right
    /// shapes for every tensor, and tensors for every module that it targets.
    ///
    /// # Errors
    /// [`AdapterError`] naming the tensor, what was expected and what was found.
    pub fn check_base(&self, slots: &SlotTable) -> Result<(), AdapterError> {
        let rules = Rules::new(&self.config, &self.file)?;
        for (module, tensors) in &self.modules {
            let slot = self.slot(slots, module, &tensors.a)?;
            if slot.kind == SlotKind::Embedding {
                let expected = "linear layers: low-rank changes of embeddings are not supported";
                return Err(self.unexpected(&tensors.a, expected));
            }
            let ([outputs, inputs], rank) = (slot.shape(), tensors.rank());
            let why = self.base(format!("{module} has {inputs} inputs"));
            self.check_shape(&tensors.a, &[rank, inputs], &why)?;
            let why = self.base(format!("{module} has {outputs} outputs"));
            self.check_shape(&tensors.b, &[outputs, rank], &why)?;
        }
        for (name, tensor) in &self.saved {
            let (module, part) = name.rsplit_once('.').unwrap_or((name, ""));
            let slot = self.slot(slots, module, tensor)?;
            let why = self.base(format!("{module} there"));
            match part {
                "weight" => self.check_shape(tensor, &slot.shape(), &why)?,
                "bias" if slot.bias => self.check_shape(tensor, &[slot.rows.len()], &why)?,
                _ => return Err(self.unexpected(tensor, &self.base(format!("no {name} in it")))),
            }
        }
        for (module, slot) in slots.iter() {
            let [_, inputs] = slot.shape();
            let is_linear = slot.kind == SlotKind::Linear;
            if is_linear && !self.modules.contains_key(module) && rules.targets(module)? {
                return Err(AdapterError::Missing {
                    file: self.file.clone(),
                    tensor: format!("{module}.lora_A.weight"),
                    expected: format!("[{}, {inputs}]", rules.rank(module)?),
                    why: "the configuration targets this module of the base".to_owned(),
                });
            }
            if rules.saves(module)? && !self.saved.contains_key(&format!("{module}.weight")) {
                return Err(AdapterError::Missing {
                    file: self.file.clone(),
                    tensor: format!("{module}.weight"),
                    expected: format!("{:?}", slot.shape()),
                    why: "modules_to_save names this module of the base".to_owned(),
                });
            }
        }
        Ok(())
    }

    fn slot<'s>(
        &self,
        slots: &'s SlotTable,
        module: &str,
        tensor: &RawTensor,
    ) -> Result<&'s Slot, AdapterError> {
        slots.get(module).ok_or_else(|| {
            let similar = similar_names(module, slots.iter().map(|(path, _)| path)).join(", ");
            let similar = if similar.is_empty() { "nothing like it".to_owned() } else { similar };
            self.unexpected(tensor, &self.base(format!("a module of it; it has {similar}")))
        })
    }

    /// Which base this is about: the message of a wrong one.
    fn base(&self, what: String) -> String {
        match &self.config.base_model {
            Some(name) => format!("{what}; the adapter was trained for {name:?}"),
            None => what,
        }
    }

    fn check_shape(
        &self,
        tensor: &RawTensor,
        expected: &[usize],
        why: &str,
    ) -> Result<(), AdapterError> {
        if tensor.shape == expected {
            return Ok(());
        }
        Err(AdapterError::Shape {
            file: self.file.clone(),
            tensor: tensor.name.clone(),
            expected: expected.to_vec(),
            why: why.to_owned(),
            found: tensor.shape.clone(),
        })
    }

    fn unexpected(&self, tensor: &RawTensor, expected: &str) -> AdapterError {
        AdapterError::Unexpected {
            file: self.file.clone(),
            tensor: tensor.name.clone(),
            expected: expected.to_owned(),
            found: tensor.shape.clone(),
        }
    }
}
