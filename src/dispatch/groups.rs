//! Bind groups that are kept from step to step, in the form of either encoder.

use std::{collections::HashMap, sync::Arc};

use super::places::Place;

/// Lists for which a bind group is kept that none of them used: it keeps its buffers alive.
const KEPT_LISTS: u64 = 256;

struct Kept<G> {
    group: Arc<G>,
    /// The list that used it last.
    used: u64,
}

/// Bind groups by kernel and buffers.
pub(super) struct Groups<G> {
    known: HashMap<(&'static str, Vec<Place>), Kept<G>>,
    /// Lists so far.
    lists: u64,
}

impl<G> Default for Groups<G> {
    fn default() -> Self {
        Self { known: HashMap::new(), lists: 0 }
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
            self.known.retain(|_, kept| lists - kept.used < KEPT_LISTS);
        }
    }

    /// That of a kernel and its buffers; `make` makes it.
    pub(super) fn of<E>(
        &mut self,
        kernel: &'static str,
        places: Vec<Place>,
        make: impl FnOnce(&[Place]) -> Result<G, E>,
    ) -> Result<Arc<G>, E> {
        use std::collections::hash_map::Entry;
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
