//! Threads that stay at hand for one decode step.
//!
//! A step of a small model has hundreds of products of some ten microseconds each, and between two of
//! them a thread of rayon's has just gone to sleep: waking it takes as long as the product. Within
//! [`with_crew`] rayon's threads wait busily for the next one instead. One step at a time in a process
//! has a crew: threads that wait busily must not take processors from others that work.

use std::{
    any::Any,
    cell::{Cell, UnsafeCell},
    hint::spin_loop,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    ptr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

/// What all members of a crew run, until it returns: it finds its share by itself.
type Job<'a> = dyn Fn() + Sync + 'a;

/// Turns that a member waits busily before it lets other threads run in between.
pub(super) const BUSY: u32 = 4096;
/// The step of the count of jobs in [`Crew::state`]; below it, the members at work are counted.
const ONE_JOB: u64 = 1 << 32;

/// One step's threads.
struct Crew {
    /// Twice the jobs so far, plus one while one is open to members; and how many are at work on it.
    state: AtomicU64,
    /// The open job.
    job: UnsafeCell<*const Job<'static>>,
    is_over: AtomicBool,
    /// What a member panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written while no job is open and no member is at work, and read by members at work; the two are
// ordered by `state`.
unsafe impl Sync for Crew {}

thread_local! {
    /// The crew that works for the current thread.
    static CREW: Cell<*const Crew> = const { Cell::new(ptr::null()) };
}

/// Whether there is a crew.
static HIRED: AtomicBool = AtomicBool::new(false);

/// Lets a crew go, also when its work panics.
struct Dismiss<'a>(&'a Crew);

impl Drop for Dismiss<'_> {
    fn drop(&mut self) {
        CREW.set(ptr::null());
        self.0.is_over.store(true, Ordering::Release);
        HIRED.store(false, Ordering::Release);
    }
}

/// Runs `work` with rayon's threads at hand for what it shares out.
pub fn with_crew<T>(work: impl FnOnce() -> T) -> T {
    let members = rayon::current_num_threads() - 1;
    if members == 0 || HIRED.swap(true, Ordering::Acquire) {
        return work();
    }
    let nothing: &'static Job<'static> = &|| ();
    let crew = Crew {
        state: AtomicU64::new(0),
        job: UnsafeCell::new(nothing),
        is_over: AtomicBool::new(false),
        panic: Mutex::default(),
    };
    rayon::in_place_scope(|scope| {
        let _dismiss = Dismiss(&crew);
        for _ in 0..members {
            scope.spawn(|_| crew.serve());
        }
        CREW.set(&raw const crew);
        work()
    })
}

/// Whether the current thread has a crew.
pub(super) fn is_at_hand() -> bool {
    !CREW.get().is_null()
}

/// Has the current thread's crew run a job with it; `false` if there is none.
pub(super) fn run(job: &Job<'_>) -> bool {
    // A job of a job is none of the crew's.
    let crew = CREW.replace(ptr::null());
    // SAFETY: it is set for as long as the crew lives, by `with_crew` on this thread.
    let Some(crew) = (unsafe { crew.as_ref() }) else { return false };
    crew.run(job);
    CREW.set(crew);
    true
}

/// Closes a job and waits until no member is at work, also when the caller's part panics.
struct Close<'a>(&'a AtomicU64);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(ONE_JOB, Ordering::AcqRel);
        while !self.0.load(Ordering::Acquire).is_multiple_of(ONE_JOB) {
            spin_loop();
        }
    }
}

impl Crew {
    fn run(&self, job: &Job<'_>) {
        // SAFETY: only the lifetime changes. Members enter while the job is open, and `Close` waits for them.
        let lasting = unsafe { std::mem::transmute::<&Job<'_>, &'static Job<'static>>(job) };
        // SAFETY: no job is open, and nobody is at work.
        unsafe { *self.job.get() = lasting };
        self.state.fetch_add(ONE_JOB, Ordering::Release);
        {
            let _close = Close(&self.state);
            job();
        }
        let panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// What a member does.
    fn serve(&self) {
        let mut done = 0;
        let mut turns = 0;
        while !self.is_over.load(Ordering::Acquire) {
            let state = self.state.load(Ordering::Acquire);
            let jobs = state / ONE_JOB;
            if jobs % 2 == 1 && jobs != done {
                let entered = self.state.compare_exchange(
                    state,
                    state + 1,
                    Ordering::AcqRel,
                    Ordering::Relaxed,
                );
                if entered.is_ok() {
                    // SAFETY: the job is open, and stays as long as this member is counted.
                    let job = unsafe { &**self.job.get() };
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(job)) {
                        *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
                    }
                    self.state.fetch_sub(1, Ordering::Release);
                    done = jobs;
                }
                turns = 0;
            } else if turns < BUSY {
                turns += 1;
                spin_loop();
            } else {
                thread::yield_now();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::parallel::for_each_task, *};
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn jobs_are_done_once_with_a_crew() {
        let sum = AtomicUsize::new(0);
        with_crew(|| {
            for job in 0..2000 {
                for_each_task(7, |task| {
                    sum.fetch_add(job * 7 + task, Ordering::Relaxed);
                });
            }
        });
        assert_eq!(sum.into_inner(), (0..14_000).sum::<usize>());
    }

    #[test]
    fn steps_of_several_threads_take_turns() {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let count = AtomicUsize::new(0);
                        let count_all = || {
                            for_each_task(64, |_| {
                                count.fetch_add(1, Ordering::Relaxed);
                            });
                        };
                        with_crew(count_all);
                        assert_eq!(count.into_inner(), 64);
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_ends_the_crew() {
        for bad in [0, 5, 63] {
            let outcome = catch_unwind(|| {
                with_crew(|| for_each_task(64, |task| assert_ne!(task, bad, "a bad task")));
            });
            assert!(outcome.is_err());
        }
        jobs_are_done_once_with_a_crew();
    }
}
