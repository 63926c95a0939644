//! Stop strings: text that ends a generation, wherever the tokens happen to cut it.
//!
//! Text goes in by pieces. What comes out at once is everything that no stop string can reach back to; a tail that may
//! be the start of one is held until the next piece decides. Where several stop strings match, the one that is complete
//! first ends the text, and of those complete at the same place the longest, that is the one that starts first: so the
//! result does not depend on how the text was cut. The stop string itself, and what follows it, is never emitted.

/// Why a set of stop strings is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StopError {
    /// An empty string would stop before the first character.
    #[error("stop string {index} is empty; expected at least one character")]
    Empty {
        /// Its place in the list, from 0.
        index: usize,
    },
}

/// What a piece of text led to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopOutput {
    /// Text that is now safe to show; may be empty.
    pub text: String,
    /// Whether a stop string was met, with this piece or an earlier one.
    pub stopped: bool,
}

/// Watches a stream of text for stop strings.
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    /// Text that may be the start of a stop string; shorter than the longest of them.
    held: String,
    /// Which stop string was met.
    hit: Option<usize>,
}

impl StopStrings {
    /// Watches for any of `stops`. With none, text passes through.
    ///
    /// # Errors
    ///
    /// When a stop string is empty.
    pub fn new(stops: Vec<String>) -> Result<Self, StopError> {
        if let Some(index) = stops.iter().position(String::is_empty) {
            return Err(StopError::Empty { index });
        }
        Ok(Self { stops, held: String::new(), hit: None })
    }

    /// Takes the next piece of text. After a stop string was met, nothing more is emitted.
    pub fn push(&mut self, piece: &str) -> StopOutput {
        if self.hit.is_some() {
            return StopOutput { text: String::new(), stopped: true };
        }
        self.held.push_str(piece);
        if let Some((stop, start)) = self.first_match() {
            let mut text = std::mem::take(&mut self.held);
            text.truncate(start);
            self.hit = Some(stop);
            return StopOutput { text, stopped: true };
        }
        let tail = self.held.split_off(self.safe_length());
        StopOutput { text: std::mem::replace(&mut self.held, tail), stopped: false }
    }

    /// Ends the text: returns what was held back, which turned out not to be a stop string. Empty after a stop.
    pub fn flush(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// The stop string that was met.
    pub fn matched(&self) -> Option<&str> {
        self.hit.map(|stop| self.stops[stop].as_str())
    }

    /// The stop string in `held` that ends first (of several ending there, the longest) and where it starts.
    fn first_match(&self) -> Option<(usize, usize)> {
        self.stops
            .iter()
            .enumerate()
            .filter_map(|(stop, text)| {
                let start = self.held.find(text.as_str())?;
                Some((start + text.len(), start, stop))
            })
            .min()
            .map(|(_, start, stop)| (stop, start))
    }

    /// Length of `held` without its longest tail that begins some stop string.
    fn safe_length(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let first = self.held.len().saturating_sub(longest.saturating_sub(1));
        (first..self.held.len())
            .filter(|&at| self.held.is_char_boundary(at))
            .find(|&at| {
                let tail = &self.held[at..];
                self.stops.iter().any(|stop| stop.starts_with(tail))
            })
            .unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stops(texts: &[&str]) -> StopStrings {
        StopStrings::new(texts.iter().map(|&text| text.to_owned()).collect())
            .expect("no empty stop")
    }

    fn output(text: &str, stopped: bool) -> StopOutput {
        StopOutput { text: text.to_owned(), stopped }
    }

    #[test]
    fn text_passes_through_without_stops() {
        let mut none = StopStrings::default();
        assert_eq!(none.push("héllo"), output("héllo", false));
        assert_eq!(none.flush(), "");
    }

    #[test]
    fn a_possible_start_is_held_and_released() {
        let mut stop = stops(&["</end>"]);
        assert_eq!(stop.push("a</e"), output("a", false));
        assert_eq!(stop.push("x"), output("</ex", false));
        assert_eq!(stop.push("</en"), output("", false));
        assert_eq!(stop.flush(), "</en");
        assert_eq!(stop.matched(), None);
    }

    #[test]
    fn a_stop_over_three_pieces_is_not_emitted() {
        let mut stop = stops(&["STOP", "###"]);
        assert_eq!(stop.push("one S"), output("one ", false));
        assert_eq!(stop.push("TO"), output("", false));
        assert_eq!(stop.push("P two"), output("", true));
        assert_eq!(stop.matched(), Some("STOP"));
        assert_eq!(stop.push("more"), output("", true));
        assert_eq!(stop.flush(), "");
    }

    #[test]
    fn the_first_to_be_complete_wins_and_then_the_longest() {
        assert_eq!(stops(&["abcd", "bc"]).push("xabcd"), output("xa", true));
        assert_eq!(stops(&["bc", "abc"]).push("xabc"), output("x", true));
        assert_eq!(stops(&["aab"]).push("aaab"), output("a", true));
    }

    #[test]
    fn characters_are_never_cut() {
        let mut stop = stops(&["é!"]);
        assert_eq!(stop.push("né"), output("n", false));
        assert_eq!(stop.push("e"), output("ée", false));
    }

    #[test]
    fn an_empty_stop_is_refused() {
        let error = StopStrings::new(vec!["a".to_owned(), String::new()]).unwrap_err();
        assert_eq!(error, StopError::Empty { index: 1 });
    }

    /// The definition, character by character over the whole text.
    fn expected(text: &str, stops: &[String]) -> (String, bool) {
        for end in (0..=text.len()).filter(|&end| text.is_char_boundary(end)) {
            let complete = stops.iter().filter(|stop| text[..end].ends_with(stop.as_str()));
            if let Some(length) = complete.map(String::len).max() {
                return (text[..end - length].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    proptest! {
        #[test]
        fn the_cut_does_not_matter(
            pieces in prop::collection::vec("[abé\u{1f600}]{0,4}", 0..20),
            stops in prop::collection::vec("[abé\u{1f600}]{1,4}", 0..4),
        ) {
            let (text, stopped) = expected(&pieces.concat(), &stops);
            let mut watch = StopStrings::new(stops.clone()).expect("no empty stop");
            let mut emitted = String::new();
            let mut hit = false;
            for piece in &pieces {
                let output = watch.push(piece);
                prop_assert!(text.starts_with(&emitted));
                emitted.push_str(&output.text);
                hit = output.stopped;
            }
            emitted.push_str(&watch.flush());
            prop_assert_eq!((emitted, hit), (text, stopped));
            prop_assert_eq!(watch.matched().is_some(), stopped);
        }
    }
}
