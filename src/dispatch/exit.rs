//! What becomes of devices when the program ends.
//!
//! A driver takes itself apart then, while the thread of CubeCL's server may still be handing it launches that
//! nobody waits for, such as those of the step behind the last one: Mesa's driver for the CPU ended one program
//! in ten so, on a busy machine, with a segmentation fault. So that thread is stopped first.

use std::{
    panic::catch_unwind,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use cubecl::wgpu::{WgpuDevice, WgpuServer};
use cubecl_common::{device::Device as _, device_handle::DeviceHandle};
use wgpu::PollType;

use super::queue::{self, Queue};

/// How long the end of a program is put off at most.
const LIMIT: Duration = Duration::from_secs(5);

/// Has devices left in peace when the program ends. To be called behind the opening of each: what is registered
/// last is done first, and a driver registers its own end when it is loaded.
pub(super) fn prepare() {
    extern "C" fn leave() {
        // Nothing must unwind from here; and the program ends in any case.
        let _ = catch_unwind(leave_all);
    }
    // SAFETY: it is a function of this program's, which may be called at any time.
    if unsafe { libc::atexit(leave) } != 0 {
        tracing::debug!("devices may be busy when the program ends");
    }
}

/// All that are open, once.
fn leave_all() {
    let open = queue::take_all();
    if open.is_empty() {
        return;
    }
    // The main thread's own variables are gone already.
    let (all_left, left) = mpsc::channel();
    let leaving = thread::Builder::new().spawn(move || {
        let until = Instant::now() + LIMIT;
        for (device, queue) in &open {
            leave_one(device, queue, until);
        }
        all_left.send(())
    });
    if leaving.is_ok() {
        let _ = left.recv_timeout(LIMIT);
    }
}

fn leave_one(device: &WgpuDevice, queue: &Queue, until: Instant) {
    let server = DeviceHandle::<WgpuServer>::new(device.to_id());
    let (stopped, has_stopped) = mpsc::channel();
    server.submit(move |_| {
        let _ = stopped.send(());
        loop {
            thread::park();
        }
    });
    server.flush_queue();
    let rest = || until.saturating_duration_since(Instant::now());
    if has_stopped.recv_timeout(rest()).is_ok() {
        let _ = queue.device.poll(PollType::Wait { submission_index: None, timeout: Some(rest()) });
    }
}
