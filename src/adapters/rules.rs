//! Which modules a configuration means, by PEFT's rules (`peft.tuners.tuners_utils` and
//! `peft.utils.other`): names match the end of a path, patterns of ranks and alphas are regular
//! expressions for it, and a target that is a string is one for the whole path.

use std::path::{Path, PathBuf};

use fancy_regex::Regex;

use super::{AdapterError, LoraConfig, TargetModules};

/// The output layer and the heads of classifiers: not among `all-linear`.
const OUTPUT_LAYERS: [&str; 3] = ["lm_head", "score", "classifier"];

/// A configuration's rules, ready to be asked about modules.
#[derive(Debug)]
pub struct Rules<'a> {
    config: &'a LoraConfig,
    file: PathBuf,
    targets: Modules<'a>,
    excluded: Option<Modules<'a>>,
    saved: Vec<Regex>,
    layers: Vec<Regex>,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
}

#[derive(Debug)]
enum Modules<'a> {
    List(&'a [String]),
    Pattern(Regex),
    AllLinear,
}

impl<'a> Rules<'a> {
    /// Compiles the patterns of a configuration; `file` is named in messages.
    ///
    /// # Errors
    /// [`AdapterError::Config`] for a pattern that is no regular expression.
    pub fn new(config: &'a LoraConfig, file: &Path) -> Result<Self, AdapterError> {
        let compile = |key: &str, pattern: &str, expression: String| {
            Regex::new(&expression).map_err(|error| AdapterError::Config {
                file: file.to_path_buf(),
                key: key.to_owned(),
                expected: "a regular expression".to_owned(),
                found: format!("{pattern:?}: {error}"),
            })
        };
        let modules = |key: &str, modules: &'a TargetModules| {
            Ok::<_, AdapterError>(match modules {
                TargetModules::List(names) => Modules::List(names),
                TargetModules::Pattern(pattern) => {
                    Modules::Pattern(compile(key, pattern, format!("^(?:{pattern})$"))?)
                }
                TargetModules::AllLinear => Modules::AllLinear,
            })
        };
        // A pattern that begins with ^ leaves no room for what stands before it.
        let ending = |key: &str, name: &str| compile(key, name, format!(r"^(?:.*\.)?(?:{name})$"));
        let layers = match (&config.layers_to_transform, &config.layers_pattern[..]) {
            (Some(layers), []) if !layers.is_empty() => {
                vec![compile("layers_pattern", "", r"^.*\.[^.]*\.(\d+)\.".to_owned())?]
            }
            (Some(layers), patterns) if !layers.is_empty() => {
                let one = |name: &String| {
                    compile("layers_pattern", name, format!(r"^(?:.*\.)?(?:{name})\.(\d+)\."))
                };
                patterns.iter().map(one).collect::<Result<_, _>>()?
            }
            _ => Vec::new(),
        };
        let saved = |name: &String| {
            compile("modules_to_save", name, format!(r"^(?:.*\.)?(?:{name})(?:$|\..*)"))
        };
        let rank = |(name, rank): (&String, &usize)| Ok((ending("rank_pattern", name)?, *rank));
        let alpha = |(name, alpha): (&String, &f64)| Ok((ending("alpha_pattern", name)?, *alpha));
        Ok(Self {
            config,
            file: file.to_path_buf(),
            targets: modules("target_modules", &config.target_modules)?,
            excluded: match &config.exclude_modules {
                Some(excluded) => Some(modules("exclude_modules", excluded)?),
                None => None,
            },
            saved: config.modules_to_save.iter().map(saved).collect::<Result<_, _>>()?,
            layers,
            ranks: config.rank_pattern.iter().map(rank).collect::<Result<_, AdapterError>>()?,
            alphas: config.alpha_pattern.iter().map(alpha).collect::<Result<_, AdapterError>>()?,
        })
    }

    /// Whether the module gets low-rank matrices.
    ///
    /// # Errors
    /// [`AdapterError::Config`] when a pattern takes too long to match.
    pub fn targets(&self, module: &str) -> Result<bool, AdapterError> {
        if let Some(excluded) = &self.excluded
            && self.is_among(excluded, "exclude_modules", module)?
        {
            return Ok(false);
        }
        if self.saves(module)? || !self.is_among(&self.targets, "target_modules", module)? {
            return Ok(false);
        }
        // Layers narrow a list down; a pattern can say by itself what it means.
        let Modules::List(names) = &self.targets else { return Ok(true) };
        if self.layers.is_empty() || names.iter().any(|name| name == module) {
            return Ok(true);
        }
        let wanted = self.config.layers_to_transform.as_deref().unwrap_or_default();
        for pattern in &self.layers {
            if let Some(found) = self.ask("layers_pattern", pattern.captures(module))? {
                let layer = found.get(1).and_then(|number| number.as_str().parse().ok());
                return Ok(layer.is_some_and(|layer: usize| wanted.contains(&layer)));
            }
        }
        Ok(false)
    }

    /// Whether the module, or one that it belongs to, is stored as a whole.
    ///
    /// # Errors
    /// As [`targets`](Self::targets).
    pub fn saves(&self, module: &str) -> Result<bool, AdapterError> {
        self.first(&self.saved, "modules_to_save", module).map(|found| found.is_some())
    }

    /// The rank of a module's low-rank matrices.
    ///
    /// # Errors
    /// As [`targets`](Self::targets).
    pub fn rank(&self, module: &str) -> Result<usize, AdapterError> {
        let patterns = self.ranks.iter().map(|(pattern, _)| pattern);
        let found = self.first(patterns, "rank_pattern", module)?;
        Ok(found.map_or(self.config.rank, |i| self.ranks[i].1))
    }

    /// What a module's product of low-rank matrices is multiplied with: `alpha / r`, or
    /// `alpha / √r`.
    ///
    /// # Errors
    /// As [`targets`](Self::targets).
    pub fn scaling(&self, module: &str) -> Result<f64, AdapterError> {
        let patterns = self.alphas.iter().map(|(pattern, _)| pattern);
        let found = self.first(patterns, "alpha_pattern", module)?;
        let alpha = found.map_or(self.config.alpha, |i| self.alphas[i].1);
        Ok(self.config.scaling(self.rank(module)?, alpha))
    }

    fn is_among(
        &self,
        modules: &Modules<'_>,
        key: &str,
        module: &str,
    ) -> Result<bool, AdapterError> {
        let ends_with = |name: &str| {
            module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        match modules {
            Modules::List(names) => Ok(names.iter().any(|name| ends_with(name))),
            Modules::Pattern(pattern) => self.ask(key, pattern.is_match(module)),
            Modules::AllLinear => Ok(!OUTPUT_LAYERS.iter().any(|name| ends_with(name))),
        }
    }

    fn first<'p>(
        &self,
        patterns: impl IntoIterator<Item = &'p Regex>,
        key: &str,
        module: &str,
    ) -> Result<Option<usize>, AdapterError> {
        for (i, pattern) in patterns.into_iter().enumerate() {
            if self.ask(key, pattern.is_match(module))? {
                return Ok(Some(i));
            }
        }
        Ok(None)
    }

    /// A pattern with look-around may backtrack for ever; the engine gives up before.
    fn ask<T>(&self, key: &str, answer: fancy_regex::Result<T>) -> Result<T, AdapterError> {
        answer.map_err(|error| AdapterError::Config {
            file: self.file.clone(),
            key: key.to_owned(),
            expected: "a regular expression that is matched in bounded time".to_owned(),
            found: error.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const Q: &str = "model.layers.1.self_attn.q_proj";

    fn config(keys: &Value) -> LoraConfig {
        let mut document = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8,
                                  "target_modules": ["q_proj"]});
        let object = document.as_object_mut().expect("an object");
        object.extend(keys.as_object().expect("an object").clone());
        LoraConfig::from_json(object.clone(), Path::new("c.json")).expect("valid")
    }

    fn targets(keys: &Value, module: &str) -> bool {
        let config = config(keys);
        Rules::new(&config, Path::new("c.json")).expect("rules").targets(module).expect("bounded")
    }

    #[test]
    fn names_are_whole_ends_of_paths() {
        assert!(targets(&json!({}), Q));
        assert!(!targets(&json!({"target_modules": ["proj"]}), Q));
        assert!(targets(&json!({"target_modules": ["self_attn.q_proj"]}), Q));
        assert!(targets(&json!({"target_modules": [Q]}), Q));
        assert!(!targets(&json!({"exclude_modules": ["layers.1.self_attn.q_proj"]}), Q));
        assert!(!targets(&json!({"exclude_modules": r".*layers\.1\..*"}), Q));
        assert!(!targets(&json!({"modules_to_save": ["self_attn"]}), Q));
    }

    #[test]
    fn a_string_is_a_pattern_for_the_whole_path() {
        assert!(targets(&json!({"target_modules": r".*\.(q|v)_proj"}), Q));
        assert!(!targets(&json!({"target_modules": "q_proj"}), Q));
        assert!(!targets(&json!({"target_modules": r"^(?!.*self_attn).*_proj"}), Q));
        assert!(targets(&json!({"target_modules": "all-linear"}), Q));
        assert!(!targets(&json!({"target_modules": "all-linear"}), "lm_head"));
    }

    #[test]
    fn layers_narrow_a_list_down() {
        assert!(targets(&json!({"layers_to_transform": [0, 1]}), Q));
        assert!(targets(&json!({"layers_to_transform": 1, "layers_pattern": "layers"}), Q));
        assert!(!targets(&json!({"layers_to_transform": [0]}), Q));
        assert!(!targets(&json!({"layers_to_transform": [1], "layers_pattern": ["h"]}), Q));
        assert!(targets(&json!({"layers_to_transform": []}), Q));
    }

    #[test]
    fn patterns_of_ranks_and_alphas() {
        let scaling = |keys: &Value| {
            let config = config(keys);
            let rules = Rules::new(&config, Path::new("c.json")).expect("rules");
            (rules.rank(Q).expect("bounded"), rules.scaling(Q).expect("bounded"))
        };
        assert_eq!(scaling(&json!({})), (4, 2.0));
        assert_eq!(scaling(&json!({"use_rslora": true})), (4, 4.0));
        let patterns = json!({"rank_pattern": {"layers.1.self_attn.q_proj": 16, "k_proj": 2},
                              "alpha_pattern": {"^model.layers.1.self_attn.q_proj": 2}});
        assert_eq!(scaling(&patterns), (16, 0.125));
        // ^ means the beginning of the whole path, and a name is no mere end of a longer one.
        let patterns = json!({"rank_pattern": {"^layers.1.self_attn.q_proj": 16, "_proj": 2}});
        assert_eq!(scaling(&patterns), (4, 2.0));
        assert_eq!(scaling(&json!({"rank_pattern": {".*q_proj": 3}})).0, 3);
    }

    #[test]
    fn what_is_no_pattern_is_named() {
        let config = config(&json!({"rank_pattern": {"(": 3}}));
        let error = Rules::new(&config, Path::new("c.json")).expect_err("no pattern").to_string();
        assert!(error.starts_with("c.json: key rank_pattern: expected a regular"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }

    #[test]
    fn patterns_that_take_for_ever_are_given_up() {
        let config = config(&json!({"target_modules": r"(?:(a)\1?)+b"}));
        let rules = Rules::new(&config, Path::new("c.json")).expect("rules");
        assert!(rules.targets(&"a".repeat(64)).is_err());
    }
}
