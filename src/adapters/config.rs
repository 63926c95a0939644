//! `adapter_config.json` of a LoRA adapter: what PEFT's `LoraConfig` says, with PEFT's meaning.
//!
//! LoRA is Hu et al., 2021 (scaling `alpha / r`); rank-stabilised LoRA Kalajdzievski, 2023
//! (`alpha / √r`); `DoRA` Liu et al., 2024.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Map, Number, Value, json};

use super::AdapterError;

/// The file's name in an adapter's folder.
pub const CONFIG_FILE: &str = "adapter_config.json";

/// The modules that get low-rank matrices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetModules {
    /// These names: of the module itself, or of the end of its path (`q_proj`).
    List(Vec<String>),
    /// A regular expression that matches the whole path.
    Pattern(String),
    /// Every linear layer but the output layer (`all-linear`).
    AllLinear,
}

/// A LoRA adapter's configuration. Keys that are not known here are kept, and written again.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// `r`: the rank where `rank_pattern` says nothing else.
    pub rank: usize,
    /// `lora_alpha`, where `alpha_pattern` says nothing else.
    pub alpha: f64,
    /// `lora_dropout`: the share of inputs left out in training.
    pub dropout: f64,
    /// `use_rslora`: scale by `alpha / √r`.
    pub use_rslora: bool,
    /// `use_dora`: every module has a magnitude.
    pub use_dora: bool,
    /// Ranks by module: a pattern matches the end of a path, or the whole path if it begins with `^`.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Alphas by module, likewise.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// What gets low-rank matrices.
    pub target_modules: TargetModules,
    /// What does not, though the targets name it.
    pub exclude_modules: Option<TargetModules>,
    /// The only layers to adapt, by number.
    pub layers_to_transform: Option<Vec<usize>>,
    /// The names before that number in a path; any name if there is none.
    pub layers_pattern: Vec<String>,
    /// Modules that are trained and stored as a whole.
    pub modules_to_save: Vec<String>,
    /// `base_model_name_or_path`.
    pub base_model: Option<String>,
    /// The file as it was read.
    document: Map<String, Value>,
}

/// Keys that change what an adapter computes in ways that are not done here. Each must be absent,
/// null, false or empty.
const REFUSED: [&str; 10] = [
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
];

/// Initialisations that change the base's own weights: such an adapter belongs to the changed ones.
const CHANGES_BASE: [&str; 5] = ["pissa", "olora", "loftq", "corda", "lora_ga"];

impl LoraConfig {
    /// A plain LoRA of this rank, alpha and targets.
    pub fn new(rank: usize, alpha: f64, target_modules: TargetModules) -> Self {
        let document = json!({"bias": "none", "peft_type": "LORA"});
        let Value::Object(document) = document else { unreachable!("it is an object") };
        Self {
            rank,
            alpha,
            dropout: 0.0,
            use_rslora: false,
            use_dora: false,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            target_modules,
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: Vec::new(),
            modules_to_save: Vec::new(),
            base_model: None,
            document,
        }
    }

    /// Reads the object of an `adapter_config.json`; `file` is named in messages.
    ///
    /// # Errors
    /// [`AdapterError::Config`] naming the key.
    pub fn from_json(document: Map<String, Value>, file: &Path) -> Result<Self, AdapterError> {
        let keys = Keys { document: &document, file };
        keys.check_supported()?;
        let config = Self {
            rank: keys.rank("r", keys.get("r"))?,
            alpha: keys.number("lora_alpha", keys.get("lora_alpha"))?,
            dropout: match keys.get("lora_dropout") {
                None => 0.0,
                found => keys.number("lora_dropout", found)?,
            },
            use_rslora: keys.flag("use_rslora")?,
            use_dora: keys.flag("use_dora")?,
            rank_pattern: keys.pattern("rank_pattern", |key, value| keys.rank(key, Some(value)))?,
            alpha_pattern: keys
                .pattern("alpha_pattern", |key, value| keys.number(key, Some(value)))?,
            target_modules: match keys.modules("target_modules")? {
                Some(modules) => modules,
                None => return Err(keys.bad("target_modules", MODULES, None)),
            },
            exclude_modules: keys.modules("exclude_modules")?,
            layers_to_transform: keys.layers("layers_to_transform")?,
            layers_pattern: keys.names("layers_pattern")?.unwrap_or_default(),
            modules_to_save: keys.names("modules_to_save")?.unwrap_or_default(),
            base_model: match keys.get("base_model_name_or_path") {
                None => None,
                Some(Value::String(name)) => Some(name.clone()),
                found => return Err(keys.bad("base_model_name_or_path", "a string", found)),
            },
            document: Map::new(),
        };
        Ok(Self { document, ..config })
    }

    /// The object of an `adapter_config.json`: the one that was read, where nothing has been changed
    /// since.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut document = self.document.clone();
        // What the file says in another spelling (8.0 for 8, one name for a list of one, nothing for
        // the default) stays: only what means something else is written anew.
        let written = Self::from_json(document.clone(), Path::new(CONFIG_FILE));
        let written = written.map(|config| config.known()).ok();
        for (i, (key, value)) in self.known().into_iter().enumerate() {
            if written.as_ref().is_none_or(|written| written[i].1 != value) {
                document.insert(key.to_owned(), value);
            }
        }
        document
    }

    /// The keys that have a field, as they are written.
    fn known(&self) -> [(&'static str, Value); 13] {
        let list = |names: &[String]| if names.is_empty() { Value::Null } else { json!(names) };
        let modules = |modules: &TargetModules| match modules {
            TargetModules::List(names) => json!(names),
            TargetModules::Pattern(pattern) => json!(pattern),
            TargetModules::AllLinear => json!("all-linear"),
        };
        let alphas = self.alpha_pattern.iter().map(|(key, alpha)| (key.clone(), number(*alpha)));
        [
            ("r", json!(self.rank)),
            ("lora_alpha", number(self.alpha)),
            ("lora_dropout", json!(self.dropout)),
            ("use_rslora", json!(self.use_rslora)),
            ("use_dora", json!(self.use_dora)),
            ("rank_pattern", json!(self.rank_pattern)),
            ("alpha_pattern", alphas.collect()),
            ("target_modules", modules(&self.target_modules)),
            ("exclude_modules", self.exclude_modules.as_ref().map_or(Value::Null, modules)),
            ("layers_to_transform", json!(self.layers_to_transform)),
            ("layers_pattern", list(&self.layers_pattern)),
            ("modules_to_save", list(&self.modules_to_save)),
            ("base_model_name_or_path", json!(self.base_model)),
        ]
    }

    /// `alpha / r`, or `alpha / √r` for rank-stabilised LoRA.
    pub fn scaling(&self, rank: usize, alpha: f64) -> f64 {
        let rank = rank as f64;
        alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// Whether `ensure_weight_tying` is set: a saved token embedding is then the output layer's
    /// weight too, where the base ties them.
    pub fn ties_weights(&self) -> bool {
        self.document.get("ensure_weight_tying") == Some(&Value::Bool(true))
    }
}

/// 8 rather than 8.0, as PEFT writes it.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

const MODULES: &str = "a list of names, a regular expression, or \"all-linear\"";

/// The keys of a document, with messages that name them.
struct Keys<'a> {
    document: &'a Map<String, Value>,
    file: &'a Path,
}

impl<'a> Keys<'a> {
    /// Null is as good as absent.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.document.get(key).filter(|value| !value.is_null())
    }

    fn bad(&self, key: &str, expected: &str, found: Option<&Value>) -> AdapterError {
        AdapterError::Config {
            file: self.file.to_path_buf(),
            key: key.to_owned(),
            expected: expected.to_owned(),
            found: found.map_or_else(|| "nothing".to_owned(), Value::to_string),
        }
    }

    fn check_supported(&self) -> Result<(), AdapterError> {
        match self.get("peft_type") {
            Some(Value::String(kind)) if kind == "LORA" => {}
            found => return Err(self.bad("peft_type", "\"LORA\"", found)),
        }
        match self.get("bias") {
            None => {}
            Some(Value::String(bias)) if bias == "none" => {}
            found => {
                let expected = "\"none\": trained biases are not supported";
                return Err(self.bad("bias", expected, found));
            }
        }
        let is_set = |value: &Value| match value {
            Value::Bool(set) => *set,
            Value::Array(items) => !items.is_empty(),
            Value::Object(entries) => !entries.is_empty(),
            _ => true,
        };
        for key in REFUSED {
            if let Some(found) = self.get(key)
                && is_set(found)
            {
                return Err(self.bad(key, "nothing: it is not supported", Some(found)));
            }
        }
        if let Some(found @ Value::String(init)) = self.get("init_lora_weights")
            && CHANGES_BASE.iter().any(|name| init.starts_with(name))
        {
            let expected = "an initialisation that leaves the base's weights alone (convert the \
                            adapter to a plain LoRA with PEFT)";
            return Err(self.bad("init_lora_weights", expected, Some(found)));
        }
        Ok(())
    }

    fn rank(&self, key: &str, found: Option<&Value>) -> Result<usize, AdapterError> {
        let rank = found.and_then(Value::as_u64).filter(|rank| (1..=1 << 20).contains(rank));
        rank.map(|rank| rank as usize).ok_or_else(|| self.bad(key, "a rank from 1 on", found))
    }

    fn number(&self, key: &str, found: Option<&Value>) -> Result<f64, AdapterError> {
        let number = found.and_then(Value::as_number).and_then(Number::as_f64);
        number.filter(|number| number.is_finite()).ok_or_else(|| self.bad(key, "a number", found))
    }

    fn flag(&self, key: &str) -> Result<bool, AdapterError> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            found => Err(self.bad(key, "true or false", found)),
        }
    }

    fn pattern<T>(
        &self,
        key: &str,
        read: impl Fn(&str, &Value) -> Result<T, AdapterError>,
    ) -> Result<BTreeMap<String, T>, AdapterError> {
        match self.get(key) {
            None => Ok(BTreeMap::new()),
            Some(Value::Object(entries)) => entries
                .iter()
                .map(|(name, value)| Ok((name.clone(), read(&format!("{key}.{name}"), value)?)))
                .collect(),
            found => Err(self.bad(key, "an object of patterns", found)),
        }
    }

    /// A list of names, or one name.
    fn names(&self, key: &str) -> Result<Option<Vec<String>>, AdapterError> {
        let expected = "a list of names";
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(name)) => Ok(Some(vec![name.clone()])),
            found @ Some(Value::Array(items)) => {
                let name = |item: &Value| item.as_str().map(str::to_owned);
                let names: Option<Vec<String>> = items.iter().map(name).collect();
                names.map(Some).ok_or_else(|| self.bad(key, expected, found))
            }
            found => Err(self.bad(key, expected, found)),
        }
    }

    /// A list of names; a string is a pattern.
    fn modules(&self, key: &str) -> Result<Option<TargetModules>, AdapterError> {
        Ok(match self.get(key) {
            Some(Value::String(all)) if all.eq_ignore_ascii_case("all-linear") => {
                Some(TargetModules::AllLinear)
            }
            Some(Value::String(pattern)) => Some(TargetModules::Pattern(pattern.clone())),
            None => None,
            found @ Some(Value::Array(_)) => match self.names(key) {
                Ok(names) => names.map(TargetModules::List),
                Err(_) => return Err(self.bad(key, MODULES, found)),
            },
            found => return Err(self.bad(key, MODULES, found)),
        })
    }

    /// A list of numbers, or one number.
    fn layers(&self, key: &str) -> Result<Option<Vec<usize>>, AdapterError> {
        let index = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
        let found = self.get(key);
        let layers = match found {
            None => return Ok(None),
            Some(Value::Array(items)) => items.iter().map(index).collect::<Option<Vec<_>>>(),
            Some(one) => index(one).map(|layer| vec![layer]),
        };
        layers.map(Some).ok_or_else(|| self.bad(key, "a list of layer numbers", found))
    }
}
