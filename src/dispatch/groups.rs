//! Bind groups that are kept from step to step, in the form of either encoder.

use std::{collections::hash_map::Entry, sync::Arc};

use cubecl::wgpu::WgpuServer;
use rustc_hash::FxHashMap;

use super::{
    gather::Listed,
    places::{Place, Places},
};

/// Lists for which a bind group is kept that none of them used: it keeps its buffers alive.
const KEPT_LISTS: u64 = 256;

struct Kept<G> {
    group: Arc<G>,
    /// The list that used it last.
    used: u64,
}

/// Bind groups by kernel and buffers.
pub(super) struct Groups<G> {
    known: FxHashMap<(&'static str, Vec<Place>), Kept<G>>,
    /// Lists so far.
    lists: u64,
}

impl<G> Default for Groups<G> {
    fn default() -> Self {
        Self { known: FxHashMap::default(), lists: 0 }
    }
}

impl<G> Groups<G> {
    /// Counts a list, and forgets now and then what has not been used for long, after calling `before`:
    /// it keeps buffers alive, and those of a model that is gone must go too.
    pub(super) fn next_list(&mut self, before: impl FnOnce()) {
        self.lists += 1;
        if self.lists.is_multiple_of(KEPT_LISTS) {
            before();
            let lists = self.lists;
            // Those that a list holds which waits for its ids are still going to be used.
            let is_held = |group: &Arc<G>| Arc::strong_count(group) > 1;
            self.known.retain(|_, kept| lists - kept.used < KEPT_LISTS || is_held(&kept.group));
        }
    }

    /// Those of a list's launches; `make` makes one that is not known. Launches that get none are left
    /// out, and why is logged.
    pub(super) fn of_list<'a>(
        &mut self,
        server: &mut WgpuServer,
        launches: &'a [Listed],
        mut make: impl FnMut(&Listed, &[Place]) -> Result<G, String>,
    ) -> Vec<(&'a Listed, Arc<G>)> {
        let mut places = Places::new(server);
        let mut found = Vec::with_capacity(launches.len());
        for launch in launches {
            let group = places
                .of(&launch.buffers)
                .and_then(|places| self.of(launch.name, places, |places| make(launch, places)));
            match group {
                Ok(group) => found.push((launch, group)),
                Err(reason) => tracing::error!(kernel = launch.name, reason, "not launched"),
            }
        }
        found
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
