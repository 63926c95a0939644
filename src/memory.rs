//! How much memory there is, and how much was used.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

/// The most memory that this process ever had in RAM, in bytes; `None` where the system does not
/// say.
#[cfg(unix)]
pub fn peak_host_bytes() -> Option<u64> {
    // Linux's `ru_maxrss` begins with what the parent had when it forked; this begins with the program.
    if let Ok(status) = fs::read_to_string("/proc/self/status")
        && let Some(peak) = kib(&status, "VmHWM:")
    {
        return Some(peak);
    }
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

/// RAM that this process can still have, in bytes: what the system says is available (Linux), or
/// all there is (macOS, which does not say how much of it is in use), and no more than the control
/// group that the process is in leaves it. `None` where the system does not say.
pub fn available_host_bytes() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = group_bytes(Path::new("/sys/fs/cgroup"), &groups);
    [system_bytes(), group].into_iter().flatten().min()
}

#[cfg(not(target_os = "macos"))]
fn system_bytes() -> Option<u64> {
    kib(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

#[cfg(target_os = "macos")]
fn system_bytes() -> Option<u64> {
    let mut bytes = 0u64;
    let mut size = size_of::<u64>();
    // SAFETY: the name ends in a zero, and the value is as long as `size` says.
    let failed = unsafe {
        let value = std::ptr::from_mut(&mut bytes).cast();
        libc::sysctlbyname(c"hw.memsize".as_ptr(), value, &raw mut size, std::ptr::null_mut(), 0)
    };
    (failed == 0).then_some(bytes)
}

/// The bytes of a line of `/proc/meminfo` or `/proc/self/status`, `name    12345 kB`.
#[cfg_attr(not(unix), allow(dead_code))]
fn kib(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What the control groups of `/proc/self/cgroup` leave a process, under `root` (`cgroups(7)`): the
/// least of what the group and those above it have left, where a group's file pages that are not in
/// use count as left.
fn group_bytes(root: &Path, groups: &str) -> Option<u64> {
    // Version 2 has one line, `0::/path`; of version 1, the line of the controller `memory`.
    let of = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (number, controllers) = (fields.next()?, fields.next()?);
        let path = fields.next()?.trim_start_matches('/').to_string();
        match (number, controllers) {
            ("0", "") => Some((root.to_path_buf(), path, ["memory.max", "memory.current"])),
            (_, controllers) if controllers.split(',').any(|name| name == "memory") => {
                let names = ["memory.limit_in_bytes", "memory.usage_in_bytes"];
                Some((root.join("memory"), path, names))
            }
            _ => None,
        }
    };
    let left = |(root, path, [limit, usage]): (PathBuf, String, [&str; 2])| {
        let number = |folder: &Path, name: &str| {
            fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok()
        };
        let folder = root.join(path);
        let above = folder.ancestors().take_while(|folder| folder.starts_with(&root));
        let left = above.filter_map(|folder| {
            let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
            let idle = stat.lines().find_map(|line| line.strip_prefix("inactive_file "));
            let idle = idle.and_then(|n| n.trim().parse().ok()).unwrap_or(0);
            let used = number(folder, usage)?.saturating_sub(idle);
            Some(number(folder, limit)?.saturating_sub(used))
        });
        left.min()
    };
    groups.lines().filter_map(of).filter_map(left).min()
}

/// A number of bytes, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        match self.0 {
            0..1_000 => write!(f, "{} bytes", self.0),
            1_000..1_000_000 => write!(f, "{:.1} kB", bytes / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{:.1} MB", bytes / 1e6),
            1_000_000_000..1_000_000_000_000 => write!(f, "{:.2} GB", bytes / 1e9),
            _ => write!(f, "{:.2} TB", bytes / 1e12),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn the_peak_grows_with_use() {
        let before = peak_host_bytes().expect("a number");
        let used = std::hint::black_box(vec![1u8; 64 << 20]);
        let after = peak_host_bytes().expect("a number");
        assert!(after >= used.len() as u64 && after >= before, "{before} {after}");
        assert!(after < 1 << 40, "bytes, not KiB taken for bytes: {after}");
    }

    #[cfg(any(target_os = "linux", target_os = "macos"))]
    #[test]
    fn some_memory_is_available() {
        let available = available_host_bytes().expect("a number");
        assert!((1 << 20..1 << 50).contains(&available), "{available}");
    }

    #[test]
    fn the_system_says_kib() {
        let meminfo = "MemTotal:       24000000 kB\nMemAvailable:   12000000 kB\nBuffers: 1 kB\n";
        assert_eq!(kib(meminfo, "MemAvailable:"), Some(12_000_000 * 1024));
        assert_eq!(kib("MemTotal: 1 kB\n", "MemAvailable:"), None);
    }

    #[test]
    fn groups_leave_the_least_of_their_limits() {
        let root = tempfile::tempdir().expect("folder");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
            fs::write(path, text).expect("file");
        };
        let left = |groups| group_bytes(root.path(), groups);
        assert_eq!(left("0::/a/b\n"), None);
        write("a/b/memory.max", "max\n");
        write("a/b/memory.current", "300\n");
        assert_eq!(left("0::/a/b\n"), None);
        write("a/memory.max", "1000\n");
        write("a/memory.current", "700\n");
        write("a/memory.stat", "anon 5\ninactive_file 200\n");
        assert_eq!(left("0::/a/b\n"), Some(500));
        write("a/b/memory.max", "350\n");
        assert_eq!(left("0::/a/b\n"), Some(50));
        write("memory/c/memory.limit_in_bytes", "64");
        write("memory/c/memory.usage_in_bytes", "80");
        assert_eq!(left("5:cpu,cpuacct:/c\n4:memory:/c\n"), Some(0));
    }

    #[test]
    fn sizes_are_readable() {
        let text = [999, 12_345, 12_345_678, 12_345_678_901, 4 << 40].map(|b| Size(b).to_string());
        assert_eq!(text, ["999 bytes", "12.3 kB", "12.3 MB", "12.35 GB", "4.40 TB"]);
    }
}
