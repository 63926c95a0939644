//! Bind groups that are kept from step to step, in the form of either encoder.
//!
//! Steps launch the same kernels on the same buffers, one behind the other, so the group of a launch is
//! looked for first among those that the same launch of the last lists had. That takes a few comparisons;
//! to look up where its buffers lie, and what group these have, takes a microsecond.

use std::{collections::hash_map::Entry, sync::Arc};

use cubecl::{server::Binding, wgpu::WgpuServer};
use rustc_hash::FxHashMap;

use super::{
    gather::Listed,
    places::{Place, Places, address},
};

/// Lists for which a bind group is kept that none of them used: it keeps its buffers alive.
const KEPT_LISTS: u64 = 256;

struct Kept<G> {
    group: Arc<G>,
    /// The list that used it last.
    used: u64,
}

/// Groups that are remembered of a launch: buffers that are written for each list take turns.
const TURNS: usize = 6;

/// What a launch had.
struct Seen<G> {
    kernel: &'static str,
    /// While they are held, nothing else comes to lie where they do.
    buffers: Vec<Binding>,
    group: Arc<G>,
    /// The list that had it last.
    used: u64,
}

impl<G> Seen<G> {
    fn is_of(&self, launch: &Listed) -> bool {
        let same = |(a, b): (&Binding, &Binding)| {
            address(&a.memory) == address(&b.memory)
                && a.offset_start == b.offset_start
                && a.offset_end == b.offset_end
        };
        self.kernel == launch.name
            && self.buffers.len() == launch.buffers.len()
            && self.buffers.iter().zip(&launch.buffers).all(same)
    }
}

/// Bind groups by kernel and buffers.
pub(super) struct Groups<G> {
    known: FxHashMap<(&'static str, Vec<Place>), Kept<G>>,
    /// Those that the first launch of the last lists had, the second one, and so on.
    seen: Vec<Vec<Seen<G>>>,
    /// Lists so far.
    lists: u64,
}

impl<G> Default for Groups<G> {
    fn default() -> Self {
        Self { known: FxHashMap::default(), seen: Vec::new(), lists: 0 }
    }
}

impl<G> Groups<G> {
    /// Counts a list. Now and then it gives what has not been used for long, to be dropped when the device is
    /// done with all that it was given: it keeps buffers alive, and those of a model that is gone must go too.
    pub(super) fn next_list(&mut self) -> Option<Vec<Arc<G>>> {
        self.lists += 1;
        if !self.lists.is_multiple_of(KEPT_LISTS) {
            return None;
        }
        let lists = self.lists;
        self.seen.iter_mut().for_each(|of| of.retain(|seen| lists - seen.used < KEPT_LISTS));
        // Those that a list holds which waits for its ids are still going to be used.
        let old = self.known.extract_if(|_, kept| {
            lists - kept.used >= KEPT_LISTS && Arc::strong_count(&kept.group) == 1
        });
        Some(old.map(|(_, kept)| kept.group).collect())
    }

    /// Lets go of the buffers that launches had, of which some may be nobody else's by now.
    pub(super) fn forget_seen(&mut self) {
        self.seen.clear();
    }

    /// Those of launches, of which the first is so far behind the beginning of its list; `make` makes one
    /// that is not known. Launches that get none are left out, and why is logged.
    pub(super) fn of_launches<'a>(
        &mut self,
        server: &mut WgpuServer,
        first: usize,
        launches: &'a [Listed],
        mut make: impl FnMut(&Listed, &[Place]) -> Result<G, String>,
    ) -> Vec<(&'a Listed, Arc<G>)> {
        let mut places = Places::new(server);
        let mut found = Vec::with_capacity(launches.len());
        for (at, launch) in (first..).zip(launches) {
            if let Some(group) = self.seen(at, launch) {
                found.push((launch, group));
                continue;
            }
            let group = places
                .of(&launch.buffers)
                .and_then(|places| self.of(launch.name, places, |places| make(launch, places)));
            match group {
                Ok(group) => {
                    self.remember(at, launch, &group);
                    found.push((launch, group));
                }
                Err(reason) => tracing::error!(kernel = launch.name, reason, "not launched"),
            }
        }
        found
    }

    /// That which a launch had in one of the last lists, if it is the same.
    fn seen(&mut self, at: usize, launch: &Listed) -> Option<Arc<G>> {
        let seen = self.seen.get_mut(at)?.iter_mut().find(|seen| seen.is_of(launch))?;
        seen.used = self.lists;
        Some(seen.group.clone())
    }

    fn remember(&mut self, at: usize, launch: &Listed, group: &Arc<G>) {
        if self.seen.len() <= at {
            self.seen.resize_with(at + 1, Vec::new);
        }
        let of = &mut self.seen[at];
        if of.len() >= TURNS
            && let Some(oldest) = (0..of.len()).min_by_key(|&i| of[i].used)
        {
            of.swap_remove(oldest);
        }
        let (kernel, buffers) = (launch.name, launch.buffers.clone());
        of.push(Seen { kernel, buffers, group: group.clone(), used: self.lists });
    }

    /// That of a kernel and its buffers.
    fn of(
        &mut self,
        kernel: &'static str,
        places: Vec<Place>,
        make: impl FnOnce(&[Place]) -> Result<G, String>,
    ) -> Result<Arc<G>, String> {
        let kept = match self.known.entry((kernel, places)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => {
                let group = Arc::new(make(&free.key().1)?);
                tracing::trace!(kernel, "a new bind group");
                free.insert(Kept { group, used: 0 })
            }
        };
        kept.used = self.lists;
        Ok(kept.group.clone())
    }
}
