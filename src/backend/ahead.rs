//! A step that was listed before its tokens were known.

use std::fmt;

type Run = dyn FnOnce(&[u32]) -> bool + Send + Sync;

/// What [`Backend::ahead`](super::Backend::ahead) listed. Unless it is run, it never happened.
pub struct Ahead(Box<Run>);

impl Ahead {
    pub(super) fn new(run: impl FnOnce(&[u32]) -> bool + Send + Sync + 'static) -> Self {
        Self(Box::new(run))
    }

    /// Runs it with these ids, as many as it was listed with and each below the vocabulary. `false` where
    /// something else came in between, on this thread or by moving to another one: it then was not run.
    #[must_use]
    pub fn run(self, ids: &[u32]) -> bool {
        self.0(ids)
    }
}

impl fmt::Debug for Ahead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ahead").finish_non_exhaustive()
    }
}
