//! Ids to text, one id at a time, never in the middle of a character.
//!
//! For a byte-level vocabulary (GPT-2, Llama 3, Qwen, `SmolLM`, every GGUF tokenizer here) a token is a string of bytes,
//! and the pieces joined are exactly what [`Tokenizer::decode`] gives for all ids at once: at most three bytes wait.
//!
//! Other decoders look at neighbours (a space is stripped at the start, `##` joins words, `<0x..>` bytes are
//! collected). There the text of a window of the last few tokens is decoded with and without the new one, and the
//! difference is emitted; the window moves on with each piece, so a token costs the same however long the text is.
//! The pieces joined are again what `decode` gives, except where byte tokens do not form UTF-8: `decode` then writes
//! U+FFFD for every byte of the run, good characters before the bad byte included, which have been emitted here.

use crate::tokenizer::{Result, Tokenizer};

/// After so many tokens without a piece, a window is emitted as it is: a character has at most four bytes, so what it
/// holds is not going to become one.
const LONGEST_WAIT: usize = 16;

/// Turns a stream of ids into pieces of text.
#[derive(Debug)]
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    skip_special: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The bytes of a character that is not complete.
    Bytes(Vec<u8>),
    Window {
        /// The tokens of the last piece, then those that wait.
        ids: Vec<u32>,
        /// How many of `ids` have been emitted.
        emitted: usize,
    },
}

impl<'t> TextStream<'t> {
    /// A stream at the start of a text. With `skip_special`, special tokens give no text.
    pub fn new(tokenizer: &'t Tokenizer, skip_special: bool) -> Self {
        let state = if tokenizer.is_byte_level() {
            State::Bytes(Vec::new())
        } else {
            State::Window { ids: Vec::new(), emitted: 0 }
        };
        Self { tokenizer, skip_special, state }
    }

    /// Takes the next id and returns the text that it completes, never empty.
    ///
    /// # Errors
    ///
    /// When the tokenizer's decoder fails; a byte-level one cannot.
    pub fn push(&mut self, id: u32) -> Result<Option<String>> {
        if self.skip_special && self.tokenizer.is_special(id) {
            return Ok(None);
        }
        match &mut self.state {
            State::Bytes(pending) => {
                self.tokenizer.push_bytes(id, pending);
                Ok(some(take_characters(pending)))
            }
            State::Window { ids, emitted } => {
                ids.push(id);
                let waiting = ids.len() - *emitted;
                let piece = difference(self.tokenizer, ids, *emitted)?;
                if piece.ends_with(char::REPLACEMENT_CHARACTER) && waiting < LONGEST_WAIT {
                    return Ok(None);
                }
                // a token without text stays in the window as context for the next, up to a point
                if piece.is_empty() && waiting < LONGEST_WAIT {
                    return Ok(None);
                }
                ids.drain(..*emitted);
                *emitted = ids.len();
                Ok(some(piece))
            }
        }
    }

    /// Ends the text and returns what was held back: bytes that never became a character are U+FFFD, as in
    /// [`Tokenizer::decode`]. The stream is then at the start of a new text.
    ///
    /// # Errors
    ///
    /// When the tokenizer's decoder fails; a byte-level one cannot.
    pub fn finish(&mut self) -> Result<Option<String>> {
        match &mut self.state {
            State::Bytes(pending) => {
                let rest = String::from_utf8_lossy(pending).into_owned();
                pending.clear();
                Ok(some(rest))
            }
            State::Window { ids, emitted } => {
                let rest = difference(self.tokenizer, ids, *emitted)?;
                ids.clear();
                *emitted = 0;
                Ok(some(rest))
            }
        }
    }
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// What the tokens from `emitted` on add to the text of those before.
fn difference(tokenizer: &Tokenizer, ids: &[u32], emitted: usize) -> Result<String> {
    let before = tokenizer.decode(&ids[..emitted], false)?;
    let mut text = tokenizer.decode(ids, false)?;
    let common = before
        .char_indices()
        .zip(text.chars())
        .find(|((_, old), new)| old != new)
        .map_or(before.len().min(text.len()), |((at, _), _)| at);
    text.drain(..common);
    Ok(text)
}

/// Removes the complete characters from the front of `pending`. What can never become a character is U+FFFD, by the
/// rule of [`String::from_utf8_lossy`]: one for each longest run of bytes that could have begun a character.
fn take_characters(pending: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut taken = 0;
    for chunk in pending.utf8_chunks() {
        text.push_str(chunk.valid());
        taken += chunk.valid().len();
        let invalid = chunk.invalid();
        if invalid.is_empty() {
            continue;
        }
        let unfinished = taken + invalid.len() == pending.len()
            && std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
        if unfinished {
            break;
        }
        text.push(char::REPLACEMENT_CHARACTER);
        taken += invalid.len();
    }
    pending.drain(..taken);
    text
}

#[cfg(test)]
mod tests {
    use super::take_characters;
    use proptest::prelude::*;

    fn stream(bytes: &[u8], cuts: &[usize]) -> String {
        let mut text = String::new();
        let mut pending = Vec::new();
        let mut rest = bytes;
        for &cut in cuts {
            let (piece, later) = rest.split_at(cut.min(rest.len()));
            rest = later;
            pending.extend_from_slice(piece);
            text.push_str(&take_characters(&mut pending));
            assert!(pending.len() < 4, "{pending:?} cannot be the start of a character");
        }
        pending.extend_from_slice(rest);
        text.push_str(&take_characters(&mut pending));
        text.push_str(&String::from_utf8_lossy(&pending));
        text
    }

    #[test]
    fn a_character_waits_for_its_last_byte() {
        let mut pending = vec![b'a', 0xf0, 0x9f];
        assert_eq!(take_characters(&mut pending), "a");
        pending.push(0x98);
        assert_eq!(take_characters(&mut pending), "");
        pending.push(0x80);
        assert_eq!(take_characters(&mut pending), "😀");
        assert!(pending.is_empty());
    }

    #[test]
    fn a_broken_character_does_not_wait() {
        let mut pending = vec![0xf0, 0x9f, b'a', 0xff];
        assert_eq!(take_characters(&mut pending), "\u{fffd}a\u{fffd}");
        assert!(pending.is_empty());
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let lead = prop::sample::select(vec![
            0x41, 0x80, 0xbf, 0xc3, 0xe2, 0xed, 0xa0, 0xf0, 0x9f, 0xf4, 0x90,
        ]);
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            prop::collection::vec(lead, 0..40),
            ".{0,12}".prop_map(String::into_bytes),
        ]
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_lossy_text(bytes in bytes(), cuts in prop::collection::vec(0usize..5, 0..40)) {
            prop_assert_eq!(stream(&bytes, &cuts), String::from_utf8_lossy(&bytes));
        }
    }
}
