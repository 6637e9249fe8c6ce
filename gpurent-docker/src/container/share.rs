//! How much of the machine renters may use, and the part of it that a container gets that asks for nothing.

use gpurent_core::allocation::Part;

/// The part of the machine for a container that asks for nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    /// Billionths of a CPU.
    pub(crate) nano_cpus: i64,
    /// Bytes.
    pub(crate) memory: i64,
    /// Processes and threads.
    pub(crate) processes: i64,
}

impl Share {
    /// A rental's part of a machine with so many CPUs and so much memory, less what is kept for the host itself.
    pub(crate) fn of(cpus: i64, memory: i64, part: Part) -> Self {
        let part = |whole: i64| i64::try_from(part.of(u64::try_from(whole).unwrap_or(0))).unwrap_or(i64::MAX);
        Self {
            // Less than a tenth of a CPU is refused as a limit everywhere else too.
            nano_cpus: part(cpus.saturating_mul(1_000_000_000)).max(100_000_000),
            memory: part(for_renters(memory)).max(64 * 1024 * 1024),
            processes: part(processes_for_renters()).clamp(256, MOST_PROCESSES),
        }
    }
}

/// More than that nobody gets who does not ask for it.
const MOST_PROCESSES: i64 = 4096;

/// The memory of a machine that renters may use: a tenth is the host's own.
pub(crate) fn for_renters(memory: i64) -> i64 {
    memory / 10 * 9
}

/// The processes and threads of this machine that renters may have: a tenth is the host's own, which could otherwise start
/// nothing any more. An engine elsewhere is believed to have no fewer.
pub(crate) fn processes_for_renters() -> i64 {
    // The kernel's own default, where it does not say (proc(5)).
    let all = std::fs::read_to_string("/proc/sys/kernel/pid_max").ok().and_then(|text| text.trim().parse().ok());
    all.unwrap_or(32_768_i64) / 10 * 9
}
