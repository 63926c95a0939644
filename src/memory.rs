//! How much memory was used.

/// The most memory that this process ever had in RAM, in bytes; `None` where the system does not
/// say.
#[cfg(unix)]
pub fn peak_host_bytes() -> Option<u64> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: the call fills the structure whenever it reports success.
    let usage = unsafe {
        if libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) != 0 {
            return None;
        }
        usage.assume_init()
    };
    // macOS counts bytes, the others KiB.
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    u64::try_from(usage.ru_maxrss).ok().map(|peak| peak * unit)
}

/// The most memory that this process ever had in RAM, in bytes; `None` where the system does not
/// say.
#[cfg(not(unix))]
pub fn peak_host_bytes() -> Option<u64> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    #[test]
    fn the_peak_grows_with_use() {
        let before = super::peak_host_bytes().expect("a number");
        let used = std::hint::black_box(vec![1u8; 64 << 20]);
        let after = super::peak_host_bytes().expect("a number");
        assert!(after >= used.len() as u64 && after >= before, "{before} {after}");
        assert!(after < 1 << 40, "bytes, not KiB taken for bytes: {after}");
    }
}
