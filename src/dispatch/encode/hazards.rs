//! Which launches need a barrier before them: of those past wgpu's encoder, which knows it otherwise.
//!
//! Finding that out takes the host 1.3 µs a launch, a quarter of what a launch takes it. But lists are alike: what
//! came of a launch behind the same ones is remembered ([`Barriers`]).

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use rustc_hash::FxHashMap;
use wgpu::Buffer;

use crate::dispatch::places::Place;

/// Bytes of buffers: none of what is kept touches another.
struct Spans<B>(BTreeMap<(B, u64), u64>);

impl<B> Default for Spans<B> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<B: Ord + Clone> Spans<B> {
    /// The last of them that begins before `end`, if it goes on behind `start`.
    fn meeting(&self, buffer: &B, Range { start, end }: Range<u64>) -> Option<Range<u64>> {
        let ((of, first), &last) = self.0.range(..(buffer.clone(), end)).next_back()?;
        (of == buffer && last > start).then_some(*first..last)
    }

    fn add(&mut self, buffer: &B, mut bytes: Range<u64>) {
        while let Some(met) = self.meeting(buffer, bytes.clone()) {
            if met.start <= bytes.start && bytes.end <= met.end {
                return;
            }
            self.0.remove(&(buffer.clone(), met.start));
            bytes = bytes.start.min(met.start)..bytes.end.max(met.end);
        }
        self.0.insert((buffer.clone(), bytes.start), bytes.end);
    }
}

/// What has been read and written since the last barrier.
struct Hazards<B> {
    read: Spans<B>,
    written: Spans<B>,
}

impl<B> Default for Hazards<B> {
    fn default() -> Self {
        Self { read: Spans::default(), written: Spans::default() }
    }
}

impl<B: Ord + Clone> Hazards<B> {
    /// Whether a barrier must come before a launch: because it reads what was written, and does not wait for
    /// that itself, or writes what was read or written. Where launches do not overlap, each one does.
    fn need_barrier<P: Bytes<Buffer = B>>(&self, launch: Launch<'_, P>, overlaps: bool) -> bool {
        if !overlaps {
            return !self.written.0.is_empty();
        }
        let meets =
            |before: &Spans<B>, place: &P| before.meeting(place.buffer(), place.range()).is_some();
        launch.uses().enumerate().any(|(i, (place, writes))| {
            if writes {
                meets(&self.written, place) || meets(&self.read, place)
            } else {
                !launch.waits.contains(&i) && meets(&self.written, place)
            }
        })
    }

    /// A place is used.
    fn add(&mut self, place: &impl Bytes<Buffer = B>, writes: bool) {
        let used = if writes { &mut self.written } else { &mut self.read };
        used.add(place.buffer(), place.range());
    }
}

/// Bytes of a buffer.
pub(super) trait Bytes: Clone {
    type Buffer: Ord + Clone;
    fn buffer(&self) -> &Self::Buffer;
    fn range(&self) -> Range<u64>;
}

impl Bytes for Place {
    type Buffer = Arc<Buffer>;

    fn buffer(&self) -> &Self::Buffer {
        &self.buffer
    }

    fn range(&self) -> Range<u64> {
        self.range()
    }
}

/// A launch with what it is bound to.
pub(super) struct Launch<'a, P> {
    pub(super) places: &'a [P],
    /// Of each of them, whether it is written to.
    pub(super) writes: &'a [bool],
    /// Those that the launch waits for itself.
    pub(super) waits: &'a [usize],
    /// What is the same for launches of one kernel on the same places, and for no others.
    pub(super) group: usize,
}

impl<P> Copy for Launch<'_, P> {}

impl<P> Clone for Launch<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<'a, P: Bytes> Launch<'a, P> {
    /// What it uses, and whether it writes there.
    fn uses(self) -> impl Iterator<Item = (&'a P, bool)> {
        self.places.iter().zip(self.writes.iter().copied())
    }

    /// What it waits for, each as a bit.
    fn waits_as_bits(self) -> u64 {
        self.waits.iter().fold(0, |all, i| all | 1 << i)
    }
}

/// What has come since the last barrier, of which [`Barriers`] remembers how it goes on.
#[derive(Clone, Copy)]
pub(super) struct Since {
    state: usize,
    /// Of [`Barriers::epoch`].
    epoch: u64,
}

/// A launch, and what came before it since the last barrier.
struct State<P> {
    before: usize,
    uses: Vec<(P, bool)>,
}

/// Nothing since the last barrier.
const NOTHING: usize = 0;
/// States that are remembered at most.
const MOST_STATES: usize = 1 << 16;

/// The barriers of lists.
pub(super) struct Barriers<P: Bytes> {
    /// Whether launches wait for results themselves.
    overlaps: bool,
    /// By what has come, a launch and what it waits for: whether there is a barrier, and what has come then.
    known: FxHashMap<(usize, usize, u64), (bool, usize)>,
    states: Vec<State<P>>,
    /// How often all was forgotten.
    epoch: u64,
    /// The state that was found out last, spelt out.
    last: (usize, Hazards<P::Buffer>),
}

impl<P: Bytes> Barriers<P> {
    pub(super) fn new(overlaps: bool) -> Self {
        let last = (NOTHING, Hazards::default());
        let mut new =
            Self { overlaps, known: FxHashMap::default(), states: Vec::new(), epoch: 0, last };
        new.forget();
        new
    }

    /// To be called when a group is gone: another one may be called the same. It holds buffers, too.
    pub(super) fn forget(&mut self) {
        self.epoch += 1;
        self.known.clear();
        self.states.clear();
        self.states.push(State { before: NOTHING, uses: Vec::new() });
        self.last = (NOTHING, Hazards::default());
    }

    /// What there is behind a barrier.
    pub(super) fn nothing(&self) -> Since {
        Since { state: NOTHING, epoch: self.epoch }
    }

    /// Whether a barrier comes before a launch, and what there is behind it.
    pub(super) fn next(&mut self, since: Since, launch: Launch<'_, P>) -> (bool, Since) {
        if since.epoch != self.epoch {
            // Nobody knows what has come; a barrier is always right.
            return (true, self.next(self.nothing(), launch).1);
        }
        let key = (since.state, launch.group, launch.waits_as_bits());
        let (barrier, state) = match self.known.get(&key) {
            Some(known) => *known,
            None => self.find_out(key, launch),
        };
        (barrier, Since { state, epoch: self.epoch })
    }

    fn find_out(&mut self, key: (usize, usize, u64), launch: Launch<'_, P>) -> (bool, usize) {
        let (mut before, ..) = key;
        if self.states.len() >= MOST_STATES {
            self.forget();
            return (true, self.find_out((NOTHING, key.1, key.2), launch).1);
        }
        if self.last.0 != before {
            self.last = (before, self.spell_out(before));
        }
        let barrier = self.last.1.need_barrier(launch, self.overlaps);
        if barrier {
            before = NOTHING;
            self.last.1 = Hazards::default();
        }
        let uses: Vec<_> = launch.uses().map(|(place, writes)| (place.clone(), writes)).collect();
        for (place, writes) in &uses {
            self.last.1.add(place, *writes);
        }
        let state = self.states.len();
        self.states.push(State { before, uses });
        self.last.0 = state;
        self.known.insert(key, (barrier, state));
        (barrier, state)
    }

    fn spell_out(&self, mut state: usize) -> Hazards<P::Buffer> {
        let mut hazards = Hazards::default();
        while state != NOTHING {
            let State { before, uses } = &self.states[state];
            for (place, writes) in uses {
                hazards.add(place, *writes);
            }
            state = *before;
        }
        hazards
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Bytes for (u8, Range<u64>) {
        type Buffer = u8;

        fn buffer(&self) -> &u8 {
            &self.0
        }

        fn range(&self) -> Range<u64> {
            self.1.clone()
        }
    }

    type Piece = (u8, Range<u64>);

    /// Launches of three kernels on places of two buffers: each is the same wherever it comes.
    fn launches() -> impl Strategy<Value = Vec<(Vec<Piece>, Vec<bool>, Vec<usize>)>> {
        let place =
            (0..2u8, 0..6u64, 1..4u64).prop_map(|(buffer, at, size)| (buffer, at..at + size));
        let launch = prop::collection::vec((place, any::<bool>(), any::<bool>()), 1..4);
        prop::collection::vec(launch, 1..6).prop_map(|launches| {
            let launches = launches.into_iter().map(|uses| {
                let waits = (0..uses.len()).filter(|&i| uses[i].2 && !uses[i].1).collect();
                let (places, writes) =
                    uses.into_iter().map(|(place, writes, _)| (place, writes)).unzip();
                (places, writes, waits)
            });
            launches.collect()
        })
    }

    proptest! {
        #[test]
        fn what_is_remembered_is_what_would_be_found_out(
            kinds in launches(),
            lists in prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 1..12), 1..5),
            overlaps: bool,
            forgets: bool,
        ) {
            let mut barriers = Barriers::<Piece>::new(overlaps);
            for list in lists.iter().chain(&lists) {
                let (mut since, mut hazards) = (barriers.nothing(), Hazards::default());
                for (at, kind) in list.iter().enumerate() {
                    let group = kind.index(kinds.len());
                    let (places, writes, waits) = &kinds[group];
                    let launch = Launch { places, writes, waits, group };
                    let mut wanted = hazards.need_barrier(launch, overlaps);
                    if forgets && at == 3 {
                        barriers.forget();
                        wanted = true;
                    }
                    if wanted {
                        hazards = Hazards::default();
                    }
                    launch.uses().for_each(|(place, writes)| hazards.add(place, writes));
                    let (barrier, then) = barriers.next(since, launch);
                    prop_assert_eq!(barrier, wanted);
                    since = then;
                }
            }
        }
    }

    #[test]
    fn spans_meet_where_they_have_bytes_in_common() {
        let mut spans = Spans::default();
        for bytes in [100..200, 300..400, 120..130, 250..310, 400..410] {
            spans.add(&'a', bytes);
        }
        spans.add(&'b', 0..1000);
        let meeting = |bytes| spans.meeting(&'a', bytes);
        assert_eq!(meeting(0..100), None);
        assert_eq!(meeting(0..101), Some(100..200));
        assert_eq!(meeting(150..160), Some(100..200));
        assert_eq!(meeting(200..250), None);
        assert_eq!(meeting(260..700), Some(400..410));
        assert_eq!(meeting(390..400), Some(250..400));
        assert_eq!(meeting(410..500), None);
        assert_eq!(spans.meeting(&'c', 0..1000), None);
    }
}
