//! The compiled kernels of a device.
//!
//! A kernel reads its sizes from a buffer, so that one serves all models. Compiled for the sizes of one
//! matrix it is faster: on an H200 a layer of a 1B-shaped model in `Q4_0` takes 24.6 µs instead of 27.4. So
//! kernels that lists launch again and again with the same sizes are compiled once more for these, between
//! two lists; until that is done, and wherever it is not, the one for all sizes runs. They compute the same,
//! bit for bit.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;

use super::{LaunchError, encode::Pipeline};

/// Lists that have launched a kernel with some sizes before it is compiled for these: the first ones of a
/// model launch others (nothing waits there), and many need only a few.
const LISTS: u32 = 4;
/// Sizes of a kernel that it is compiled for at most. They are kept as long as the device.
const MOST_SIZES: usize = 16;

/// What a launch has the same as others like it.
#[derive(Clone, Copy)]
pub(super) struct Sizes<'a> {
    /// The place of the parameters among the kernel's buffers.
    pub(super) params: usize,
    pub(super) words: &'a [u32],
    /// Places of words that change from launch to launch.
    pub(super) passing: &'static [usize],
}

impl Sizes<'_> {
    /// The words that stay, each with its place.
    fn lasting(&self) -> impl Iterator<Item = (u32, u32)> {
        let all = (0u32..).zip(self.words.iter().copied());
        all.filter(|(at, _)| !self.passing.contains(&(*at as usize)))
    }
}

/// A kernel, for all sizes and for some.
struct Known {
    any: Arc<Pipeline>,
    sized: Vec<Sized>,
}

struct Sized {
    words: Vec<(u32, u32)>,
    /// Lists that have launched it, and the last one of them.
    lists: u32,
    last: u64,
    pipeline: Option<Arc<Pipeline>>,
}

/// What is to be compiled.
pub(super) struct Wanted {
    pub(super) any: Arc<Pipeline>,
    pub(super) params: u32,
    pub(super) words: Vec<(u32, u32)>,
}

/// What to launch, and now and then what a better one is to be made of ([`Pipelines::put`]).
pub(super) type Found = (Arc<Pipeline>, Option<Wanted>);

impl Known {
    fn find(&mut self, sizes: Option<Sizes<'_>>, list: u64) -> Found {
        let any = self.any.clone();
        let Some(sizes) = sizes.filter(|_| any.takes_constants()) else { return (any, None) };
        let same = |sized: &&mut Sized| sized.words.iter().copied().eq(sizes.lasting());
        let Some(sized) = self.sized.iter_mut().find(same) else {
            if self.sized.len() < MOST_SIZES {
                let words = sizes.lasting().collect();
                self.sized.push(Sized { words, lists: 1, last: list, pipeline: None });
            }
            return (any, None);
        };
        if let Some(pipeline) = &sized.pipeline {
            return (pipeline.clone(), None);
        }
        let mut wanted = None;
        if sized.last != list {
            sized.last = list;
            sized.lists = sized.lists.saturating_add(1);
            wanted = (sized.lists == LISTS).then(|| Wanted {
                any: any.clone(),
                params: sizes.params as u32,
                words: sized.words.clone(),
            });
        }
        (any, wanted)
    }
}

/// Kernels by their names.
#[derive(Default)]
pub(super) struct Pipelines(Mutex<FxHashMap<&'static str, Result<Known, LaunchError>>>);

impl Pipelines {
    fn lock(&self) -> MutexGuard<'_, FxHashMap<&'static str, Result<Known, LaunchError>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The best one for a launch of a list, by its number, if the kernel was compiled.
    pub(super) fn find(
        &self,
        name: &'static str,
        sizes: Option<Sizes<'_>>,
        list: u64,
    ) -> Option<Result<Found, LaunchError>> {
        let mut all = self.lock();
        let found = all.get_mut(name)?.as_mut().map(|known| known.find(sizes, list));
        Some(found.map_err(|refusal| refusal.clone()))
    }

    /// Remembers what became of a kernel for all sizes. Threads that need it at the same time each have it
    /// compiled: all of them take the first one, for bind groups of one pipeline are not those of another.
    pub(super) fn insert(
        &self,
        name: &'static str,
        compiled: Result<Pipeline, LaunchError>,
    ) -> Result<Arc<Pipeline>, LaunchError> {
        let new = || compiled.map(|any| Known { any: Arc::new(any), sized: Vec::new() });
        let mut all = self.lock();
        let known = all.entry(name).or_insert_with(new);
        known.as_ref().map(|known| known.any.clone()).map_err(Clone::clone)
    }

    /// Remembers a kernel for some sizes.
    pub(super) fn put(&self, name: &'static str, words: &[(u32, u32)], compiled: Pipeline) {
        let mut all = self.lock();
        let Some(Ok(known)) = all.get_mut(name) else { return };
        if let Some(sized) = known.sized.iter_mut().find(|sized| sized.words == words) {
            sized.pipeline = Some(Arc::new(compiled));
        }
    }

    /// How many there are for some sizes.
    pub(super) fn sized(&self) -> usize {
        let all = self.lock();
        let known = all.values().filter_map(|known| known.as_ref().ok());
        known.flat_map(|known| &known.sized).filter(|sized| sized.pipeline.is_some()).count()
    }
}
