//! What the system says about a process.

/// Most memory that this process has had resident so far, in bytes.
#[must_use]
pub fn peak_resident_bytes() -> u64 {
    field_kib("VmHWM:") * 1024
}

/// Memory that this process has resident now, in bytes.
#[must_use]
pub fn resident_bytes() -> u64 {
    field_kib("VmRSS:") * 1024
}

fn field_kib(name: &str) -> u64 {
    std::fs::read_to_string("/proc/self/status")
        .unwrap()
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap()
}
