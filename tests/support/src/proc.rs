//! What the system says about a process.

/// Most memory that this process has had resident so far, in bytes.
#[must_use]
pub fn peak_resident_bytes() -> u64 {
    field_kib("self", "VmHWM:") * 1024
}

/// Memory that this process has resident now, in bytes.
#[must_use]
pub fn resident_bytes() -> u64 {
    field_kib("self", "VmRSS:") * 1024
}

/// Memory that a process has resident, in bytes: now, and the most that it has had so far.
#[must_use]
pub fn resident_bytes_of(pid: u32) -> (u64, u64) {
    let pid = pid.to_string();
    let bytes = |name| field_kib(&pid, name) * 1024;
    (bytes("VmRSS:"), bytes("VmHWM:"))
}

fn field_kib(pid: &str, name: &str) -> u64 {
    std::fs::read_to_string(format!("/proc/{pid}/status"))
        .unwrap()
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap()
}
