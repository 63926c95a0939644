//! How many steps are handed to a device together.
//!
//! Between two lists of launches a GPU waits: an H200 35 µs, for what a list begins and ends with and for the
//! way from one to the next, of 500 that a step of a 1B-shaped model takes. But the tokens of a list are there
//! all at once, and some of its steps are in vain when the text has ended. So lists are short for whoever reads
//! along: of a few milliseconds.

use std::{
    collections::VecDeque,
    sync::OnceLock,
    time::{Duration, Instant},
};

/// How long a list may take.
const LONGEST: Duration = Duration::from_millis(5);
/// Steps of a list at most.
const MOST: usize = 4;

/// The environment variable with another number of steps at most: for comparing.
const MOST_VARIABLE: &str = "METAL_CANDLE_STEPS_AT_ONCE";

fn most() -> usize {
    static MOST_STEPS: OnceLock<usize> = OnceLock::new();
    *MOST_STEPS.get_or_init(|| {
        let given = std::env::var(MOST_VARIABLE).ok().and_then(|text| text.parse().ok());
        given.map_or(MOST, |most: usize| most.max(1))
    })
}

/// The lists of steps of a generation.
#[derive(Debug)]
pub(super) struct Pace {
    /// Steps of each list that is on its way.
    on_their_way: VecDeque<usize>,
    /// Steps of the one that was handed over last.
    last: usize,
    /// Tokens of the list that has arrived which were not read.
    unread: usize,
    /// When that was.
    arrived: Option<Instant>,
    /// For the next list.
    steps: usize,
}

impl Default for Pace {
    /// With one step on its way.
    fn default() -> Self {
        let on_their_way = VecDeque::from([1]);
        Self { on_their_way, last: 1, unread: 0, arrived: None, steps: 1 }
    }
}

impl Pace {
    /// Steps to hand over before a token is waited for: behind it so many are on their way, and so many are
    /// wanted in all. A list is handed over while the one before it is running.
    pub(super) fn steps(&self, on_their_way: usize, wanted: usize) -> usize {
        let is_first_of_last = on_their_way + 1 == self.last;
        if is_first_of_last { self.steps.min(wanted.saturating_sub(on_their_way)) } else { 0 }
    }

    /// So many were.
    pub(super) fn handed_over(&mut self, steps: usize) {
        if steps > 0 {
            self.on_their_way.push_back(steps);
            self.last = steps;
        }
    }

    /// The next token was read.
    pub(super) fn read(&mut self) {
        self.read_at(Instant::now(), most());
    }

    fn read_at(&mut self, now: Instant, most: usize) {
        if self.unread == 0 {
            let arrived = self.on_their_way.pop_front().unwrap_or(1);
            self.unread = arrived;
            if let Some(before) = self.arrived.replace(now) {
                let step = (now - before).max(Duration::from_nanos(1)) / arrived as u32;
                let fit = LONGEST.as_nanos() / step.as_nanos().max(1);
                // Not at once: one of them may have been short by chance.
                let longer = most.min(2 * self.steps);
                self.steps = usize::try_from(fit).unwrap_or(usize::MAX).clamp(1, longer);
            }
        }
        self.unread -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lists of a generation of so many tokens, the first of which a prompt gives.
    fn lists(tokens: usize, step: Duration) -> Vec<usize> {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        let (mut lists, mut on_their_way) = (Vec::new(), 1);
        for read in 0..tokens {
            on_their_way -= 1;
            let steps = pace.steps(on_their_way, tokens - 1 - read);
            pace.handed_over(steps);
            on_their_way += steps;
            lists.extend((steps > 0).then_some(steps));
            // A list takes as long as its steps, and all of its tokens are there then.
            if pace.unread == 0 {
                now += step * pace.on_their_way[0] as u32;
            }
            pace.read_at(now, MOST);
        }
        assert_eq!(on_their_way, 0);
        lists
    }

    #[test]
    fn lists_of_short_steps_become_longer() {
        assert_eq!(lists(25, Duration::from_micros(500)), [1, 1, 2, 4, 4, 4, 4, 4]);
        assert_eq!(lists(8, Duration::from_micros(2400)), [1, 1, 2, 2, 1]);
        assert_eq!(lists(4, Duration::from_millis(30)), [1, 1, 1]);
        assert_eq!(lists(1, Duration::from_micros(500)), [0; 0]);
    }

    #[test]
    fn a_pause_makes_them_short_again() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for at in 0..4 {
            pace.handed_over(1);
            pace.read_at(now + at * Duration::from_micros(100), MOST);
        }
        assert_eq!(pace.steps(0, 100), MOST);
        pace.handed_over(1);
        pace.read_at(now + Duration::from_secs(1), MOST);
        assert_eq!(pace.steps(0, 100), 1);
    }
}
