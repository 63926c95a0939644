//! A thread that compiles while the others go on.
//!
//! A process must not end in the middle of that, for the driver's own library would be taken apart
//! underneath it: whoever ends it waits for what has been begun.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

type Work = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    waiting: VecDeque<Work>,
    has_thread: bool,
    is_busy: bool,
    is_ending: bool,
}

static STATE: Mutex<State> = Mutex::new(State {
    waiting: VecDeque::new(),
    has_thread: false,
    is_busy: false,
    is_ending: false,
});
static CHANGED: Condvar = Condvar::new();

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until the state is another one.
fn wait_while(is: impl Fn(&State) -> bool) -> MutexGuard<'static, State> {
    let waited = CHANGED.wait_while(state(), |state| is(state));
    waited.unwrap_or_else(PoisonError::into_inner)
}

/// Has something done, behind what is waiting.
pub(super) fn later(work: impl FnOnce() + Send + 'static) {
    let mut state = state();
    if !state.has_thread {
        // SAFETY: it takes no argument, and does not unwind.
        let registered = unsafe { libc::atexit(end) };
        let spawned = thread::Builder::new().name("compiler".into()).spawn(run);
        if registered != 0 || spawned.is_err() {
            tracing::warn!("nothing is compiled in the background: no thread");
            return;
        }
        state.has_thread = true;
    }
    state.waiting.push_back(Box::new(work));
    CHANGED.notify_all();
}

/// Waits until all kernels are compiled that are being compiled in the background: for measuring.
pub fn settle() {
    drop(wait_while(|state| state.is_busy || !state.waiting.is_empty()));
}

fn run() {
    loop {
        let mut state = wait_while(|state| state.waiting.is_empty() || state.is_ending);
        let Some(work) = state.waiting.pop_front() else { continue };
        state.is_busy = true;
        drop(state);
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            tracing::error!("compiling in the background panicked");
        }
        self::state().is_busy = false;
        CHANGED.notify_all();
    }
}

extern "C" fn end() {
    state().is_ending = true;
    drop(wait_while(|state| state.is_busy));
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    #[test]
    fn all_is_done_in_its_order() {
        let done = Arc::new(AtomicU32::new(0));
        for i in 0..20 {
            let done = done.clone();
            later(move || {
                assert!(i != 7, "one that panics");
                assert_eq!(done.fetch_add(1, Ordering::Relaxed), i - u32::from(i > 7));
            });
        }
        settle();
        assert_eq!(done.load(Ordering::Relaxed), 19);
    }
}
