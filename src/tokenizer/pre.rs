//! The pre-tokenizers that `tokenizer.ggml.pre` names: how text is cut into words before the merges of a byte-level
//! BPE run inside each word.
//!
//! The names and what they stand for are llama.cpp's (`src/llama-vocab.cpp`). Where it rewrote a model's own
//! expression to suit its engine, the model's own one (kept there in a comment) is used here. Like llama.cpp, no
//! Unicode normalisation is applied, although a few of these models publish a `tokenizer.json` that asks for NFC.
//! Names are listed only where the splitting is known exactly; everything else is refused by the caller.

use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

/// How words are cut, and which defaults go with it.
pub(super) struct Recipe {
    /// Expressions applied one after the other, each inside the pieces that the previous one left; a match is a piece
    /// of its own, and so is what lies between two matches.
    splits: &'static [&'static str],
    /// A word that is itself in the vocabulary is one token, whatever the merges say.
    pub(super) ignore_merges: bool,
    /// Whether BOS is prepended when the file does not say.
    pub(super) add_bos: bool,
}

pub(super) const GPT2: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
pub(super) const DIGIT: &str = r"\p{N}";
const THREE_DIGITS: &str = "[0-9][0-9][0-9]";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK_LETTERS: &str = concat!(
    r"\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-",
    r"\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-",
    r"\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-",
    r"\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}",
    r"\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-",
    r"\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-",
    r"\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}",
    r"\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}",
    r"\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}",
    r"\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-",
    r"\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}",
    r"\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-",
    r"\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]+",
);
const DEEPSEEK_CJK: &str = r"[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

/// Every supported name, grouped by recipe. The first group holds llama.cpp's plain `default`.
const RECIPES: &[(&[&str], Recipe)] = &[
    (&["default"], recipe(&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", THREE_DIGITS])),
    (
        &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
        ],
        recipe(&[GPT2]),
    ),
    (
        &[
            "smollm",
            "starcoder",
            "refact",
            "command-r",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        recipe(&[DIGIT, GPT2]),
    ),
    (
        &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        recipe(&[LLAMA3]).whole_words().with_bos(),
    ),
    (&["dbrx", "smaug-bpe"], recipe(&[LLAMA3])),
    (
        &[
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
        ],
        recipe(&[QWEN2]),
    ),
    (&["qwen35"], recipe(&[QWEN35])),
    (&["falcon"], recipe(&[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, THREE_DIGITS])),
    (
        &["deepseek-llm"],
        recipe(&[
            "[\r\n]",
            DEEPSEEK_LETTERS,
            r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+",
            r"\s+$",
            DEEPSEEK_CJK,
            r"\p{N}+",
        ]),
    ),
    (&["deepseek-coder"], recipe(&["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_CJK, DIGIT])),
    (
        &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        recipe(&[
            r"\p{N}{1,3}",
            r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+",
            DEEPSEEK3,
        ]),
    ),
    (&["tekken"], recipe(&[TEKKEN]).whole_words().with_bos()),
    (&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], recipe(&[GPT4O])),
];

const fn recipe(splits: &'static [&'static str]) -> Recipe {
    Recipe { splits, ignore_merges: false, add_bos: false }
}

impl Recipe {
    const fn whole_words(mut self) -> Self {
        self.ignore_merges = true;
        self
    }

    const fn with_bos(mut self) -> Self {
        self.add_bos = true;
        self
    }

    /// The recipe that `tokenizer.ggml.pre` names, or `None` where it is unknown.
    pub(super) fn named(name: &str) -> Option<&'static Recipe> {
        RECIPES.iter().find(|(names, _)| names.contains(&name)).map(|(_, recipe)| recipe)
    }

    /// The name of the recipe that cuts so, if there is one: the reverse of [`Recipe::named`].
    pub(super) fn name_of(splits: &[&str], ignore_merges: bool) -> Option<&'static str> {
        let alike =
            |recipe: &Recipe| recipe.splits == splits && recipe.ignore_merges == ignore_merges;
        RECIPES.iter().find(|(_, recipe)| alike(recipe)).map(|(names, _)| names[0])
    }

    /// All names, separated by commas, for an error message.
    pub(super) fn supported() -> String {
        let names: Vec<&str> =
            RECIPES.iter().flat_map(|(names, _)| names.iter().copied()).collect();
        names.join(", ")
    }

    /// The splits, then the mapping of bytes to printable characters, which must come last because the expressions
    /// look at the text itself.
    pub(super) fn build(&self) -> tokenizers::Result<PreTokenizerWrapper> {
        let mut steps = Vec::with_capacity(self.splits.len() + 1);
        for &expression in self.splits {
            let pattern = SplitPattern::Regex(expression.to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?;
            steps.push(PreTokenizerWrapper::Split(split));
        }
        steps.push(PreTokenizerWrapper::ByteLevel(byte_level()));
        Ok(Sequence::new(steps).into())
    }
}

/// GPT-2's bytes-to-characters table; no space is put before the text and no expression is applied.
pub(super) fn byte_level() -> ByteLevel {
    ByteLevel::new(false, true, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::tokenizer::{
        OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _,
    };

    fn words(pre: &str, text: &str) -> Vec<String> {
        let mut string = PreTokenizedString::from(text);
        let recipe = Recipe::named(pre).expect("a supported name");
        let pre_tokenizer = recipe.build().expect("the expressions compile");
        pre_tokenizer.pre_tokenize(&mut string).expect("splitting cannot fail");
        string
            .get_splits(OffsetReferential::Original, OffsetType::Byte)
            .into_iter()
            .map(|(_, (start, end), _)| text[start..end].to_owned())
            .collect()
    }

    #[test]
    fn every_recipe_compiles_and_keeps_all_bytes() {
        let text =
            "It's 12345 naïve\r\n\r\n  cafés, don't I'M 日本語 ｈｅｌｌｏ\t\t😀!? e\u{301}x ";
        for (names, _) in RECIPES {
            for name in *names {
                assert_eq!(words(name, text).concat(), text, "{name}");
            }
        }
    }

    #[test]
    fn recipes_have_a_name() {
        for (splits, ignore_merges, name) in [
            (&[GPT2][..], false, Some("gpt-2")),
            (&[DIGIT, GPT2], false, Some("smollm")),
            (&[LLAMA3], true, Some("llama-bpe")),
            (&[LLAMA3], false, Some("dbrx")),
            (&[QWEN2], false, Some("qwen2")),
            (&[QWEN2, DIGIT], false, None),
        ] {
            assert_eq!(Recipe::name_of(splits, ignore_merges), name);
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = RECIPES.iter().flat_map(|(n, _)| n.iter().copied()).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn digits_are_grouped_as_each_model_does() {
        assert_eq!(words("gpt-2", "a 12345"), ["a", " 12345"]);
        assert_eq!(words("smollm", "a 123"), ["a", " ", "1", "2", "3"]);
        assert_eq!(words("llama-bpe", "a 12345"), ["a", " ", "123", "45"]);
        assert_eq!(words("qwen2", "a 123"), ["a", " ", "1", "2", "3"]);
        assert_eq!(words("falcon", "12345"), ["123", "45"]);
        assert_eq!(words("tekken", "helloWorld 12"), ["hello", "World", " ", "1", "2"]);
    }

    #[test]
    fn contractions_and_white_space() {
        assert_eq!(words("gpt-2", "I'M don't"), ["I", "'", "M", " don", "'t"]);
        assert_eq!(words("llama-bpe", "I'M"), ["I", "'M"]);
        assert_eq!(words("gpt-2", "a   b  "), ["a", "  ", " b", "  "]);
        assert_eq!(words("llama-bpe", "a\n\n b"), ["a", "\n\n", " b"]);
    }

    #[test]
    fn an_unknown_name_is_not_guessed() {
        assert!(Recipe::named("llama-spm").is_none());
        assert!(Recipe::supported().starts_with("default, gpt-2"));
    }
}
