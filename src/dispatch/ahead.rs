//! Lists that are encoded before it is known which tokens they are for, while the device is busy with
//! the step before. When the tokens are known, all that is left is to write them to a buffer and to
//! submit what was encoded. Or the device itself chooses the tokens in the step before: then they are
//! where such a list looks for them, and it is submitted at once. Several steps may follow one another in it.
//!
//! Such a list takes buffers of its thread's pool as if it had been run. So whatever else that thread
//! lists before it is run might lie in the same ones, and it is given up then ([`settle`]). Kernels that
//! take turns with their thread's cells ([`cells`]) have had their turn in it: they begin anew.

use std::{
    cell::RefCell,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    thread::{self, ThreadId},
};

use cubecl::server::Handle;

use super::{
    cells,
    encode::Commands,
    gather::{Gatherer, Listed},
    read_back::ReadBack,
    written::Words,
};

/// What becomes of a list.
const WAITING: u8 = 0;
const RUN: u8 = 1;
const GIVEN_UP: u8 = 2;

/// The ids of a step: where they are, and how many.
struct Ids {
    /// Where the device puts them.
    chosen: Option<(Handle, usize)>,
    /// Once launches have taken them.
    taken: Option<(Handle, usize)>,
}

/// A list that waits for ids.
pub(super) struct Later {
    thread: ThreadId,
    state: AtomicU8,
    ids: Mutex<Ids>,
    recorded: Mutex<Recorded>,
    /// What is read back behind its launches.
    copies: Mutex<Vec<(Handle, Arc<ReadBack>)>>,
}

/// What the server's thread has made of a list so far.
#[derive(Default)]
pub(super) struct Recorded {
    pub(super) commands: Option<Commands>,
    /// They keep the buffers.
    pub(super) launches: Vec<Listed>,
    /// What its commands write: to be written otherwise, should it be given up.
    pub(super) written: Vec<Words>,
}

thread_local! {
    /// The last one that the thread has listed.
    static LAST: RefCell<Option<Arc<Later>>> = const { RefCell::new(None) };
}

/// Before the current thread lists something else.
pub(super) fn settle() {
    if let Some(last) = LAST.take()
        && last.state.load(Ordering::Acquire) != RUN
    {
        last.give_up();
        cells::forget();
    }
}

impl Later {
    /// For a list that the current thread opens, which waits for ids, or takes so many from a buffer.
    pub(super) fn new(chosen: Option<(Handle, usize)>) -> Arc<Self> {
        Arc::new(Self {
            thread: thread::current().id(),
            state: AtomicU8::new(WAITING),
            ids: Mutex::new(Ids { chosen, taken: None }),
            recorded: Mutex::default(),
            copies: Mutex::default(),
        })
    }

    /// That list was opened: whatever becomes of it, the thread remembers.
    pub(super) fn opened(self: &Arc<Self>) {
        LAST.set(Some(self.clone()));
    }

    /// The buffer of so many ids, which `make` makes at the first time, unless they are in one. All of a
    /// step are the same ones.
    pub(super) fn ids(&self, count: usize, make: impl FnOnce() -> Handle) -> Option<Handle> {
        let Ids { chosen, taken } = &mut *self.lock_ids();
        let first = || chosen.clone().unwrap_or_else(|| (make(), count));
        let (handle, known) = taken.get_or_insert_with(first);
        (*known == count).then(|| handle.clone())
    }

    /// Where those are that launches have taken, and how many.
    fn taken(&self) -> Option<(Handle, usize)> {
        self.lock_ids().taken.clone()
    }

    /// Another step follows in the same list, with so many ids from a buffer; `false` where this one has taken
    /// none, or those of the host.
    pub(super) fn goes_on(&self, with: (Handle, usize)) -> bool {
        let Ids { chosen, taken } = &mut *self.lock_ids();
        if chosen.is_none() || taken.take().is_none() {
            return false;
        }
        *chosen = Some(with);
        true
    }

    fn lock_ids(&self) -> MutexGuard<'_, Ids> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.state.load(Ordering::Acquire) == GIVEN_UP
    }

    /// For the server's thread alone.
    pub(super) fn recorded(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It will not run, unless it has.
    pub(super) fn give_up(&self) {
        if self.leave(GIVEN_UP) {
            let mut recorded = self.recorded();
            drop((recorded.commands.take(), std::mem::take(&mut recorded.launches)));
            drop(recorded);
            for (_, copy) in self.take_copies() {
                copy.end(Err("it was not launched".into()));
            }
        }
    }

    /// Has a buffer copied behind its launches.
    pub(super) fn copy(&self, from: Handle, to: Arc<ReadBack>) {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner).push((from, to));
    }

    pub(super) fn take_copies(&self) -> Vec<(Handle, Arc<ReadBack>)> {
        std::mem::take(&mut *self.copies.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn leave(&self, to: u8) -> bool {
        self.state.compare_exchange(WAITING, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// A whole list that waits for ids, or to be submitted.
pub struct Ahead {
    gatherer: Arc<Gatherer>,
    later: Arc<Later>,
}

impl Ahead {
    /// What was listed; `None` when nothing in it takes ids.
    pub(super) fn new(gatherer: &Arc<Gatherer>, later: &Arc<Later>) -> Option<Self> {
        later.taken()?;
        Some(Self::without_ids(gatherer, later))
    }

    /// What was listed, to [`follow`](Self::follow) what was submitted before, whether it takes ids or not.
    pub(super) fn without_ids(gatherer: &Arc<Gatherer>, later: &Arc<Later>) -> Self {
        Self { gatherer: gatherer.clone(), later: later.clone() }
    }

    /// Submits it with these ids, as many as were listed; `false` when it was given up.
    #[must_use]
    pub fn run(self, ids: &[u32]) -> bool {
        let Some((handle, count)) = self.later.taken() else { return false };
        let fits = count == ids.len() && thread::current().id() == self.later.thread;
        if !fits || !self.later.leave(RUN) {
            return false;
        }
        let ids = bytemuck::cast_slice(ids).to_vec();
        self.gatherer.run(&self.later, Some((handle, ids)));
        true
    }

    /// Submits it with the ids that the device has put where it looks for them.
    pub(super) fn follow(self) -> bool {
        let runs = self.later.leave(RUN);
        if runs {
            self.gatherer.run(&self.later, None);
        }
        runs
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.later.give_up();
    }
}
