//! The names and units of the semantic conventions that mean something to a decision, of version 1.42 and of the ones before it that
//! SDKs and the Collector still send.

/// What a metric means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Share of the CPU limit.
    CpuShare,
    /// CPU time, a counter.
    CpuSeconds,
    /// Cores in use.
    CpuCores,
    /// Cores it may use.
    CpuLimit,
    /// Share of the memory limit.
    MemoryShare,
    /// Memory in use.
    MemoryBytes,
    /// Memory it may use.
    MemoryLimit,
    /// Restarts so far.
    Restarts,
    /// Duration of requests that were served, a histogram.
    Requests,
}

impl Meaning {
    /// How many there are.
    pub(super) const COUNT: usize = Self::Requests as usize + 1;
}

/// What the metric called `name` means, and its rank: of two names for the same the lower one counts. What a host does as a whole
/// (`system.*`) decides nothing about an app.
pub(super) fn meaning(name: &str) -> Option<(Meaning, u8)> {
    Some(match name {
        "k8s.container.cpu.limit.utilization" => (Meaning::CpuShare, 0),
        "k8s.container.cpu_limit_utilization" => (Meaning::CpuShare, 1),
        "k8s.pod.cpu_limit_utilization" => (Meaning::CpuShare, 2),
        "process.cpu.utilization" => (Meaning::CpuShare, 3),
        "jvm.cpu.recent_utilization" => (Meaning::CpuShare, 4),
        "container.cpu.usage" => (Meaning::CpuCores, 0),
        "k8s.pod.cpu.usage" => (Meaning::CpuCores, 1),
        "container.cpu.time" => (Meaning::CpuSeconds, 2),
        "process.cpu.time" => (Meaning::CpuSeconds, 3),
        "k8s.container.cpu.limit" => (Meaning::CpuLimit, 0),
        "k8s.container.cpu_limit" => (Meaning::CpuLimit, 1),
        "jvm.cpu.count" => (Meaning::CpuLimit, 2),
        "system.cpu.logical.count" => (Meaning::CpuLimit, 3),
        "k8s.container.memory.limit.utilization" => (Meaning::MemoryShare, 0),
        "k8s.container.memory_limit_utilization" => (Meaning::MemoryShare, 1),
        "k8s.pod.memory_limit_utilization" => (Meaning::MemoryShare, 2),
        "container.memory.working_set" => (Meaning::MemoryBytes, 0),
        "k8s.pod.memory.working_set" => (Meaning::MemoryBytes, 1),
        "container.memory.usage" => (Meaning::MemoryBytes, 2),
        "process.memory.usage" => (Meaning::MemoryBytes, 3),
        "jvm.memory.used" => (Meaning::MemoryBytes, 4),
        "k8s.container.memory.limit" => (Meaning::MemoryLimit, 0),
        "k8s.container.memory_limit" => (Meaning::MemoryLimit, 1),
        "jvm.memory.limit" => (Meaning::MemoryLimit, 2),
        "k8s.container.restart.count" => (Meaning::Restarts, 0),
        "k8s.container.restarts" => (Meaning::Restarts, 1),
        "http.server.request.duration" | "http.server.duration" => (Meaning::Requests, 0),
        "rpc.server.call.duration" | "rpc.server.duration" => (Meaning::Requests, 0),
        _ => return None,
    })
}

/// What one of `unit` is in the unit of the meaning; `None` if it is no unit of that kind. Without a unit it is taken for the one of
/// the convention.
pub(super) fn per_unit(meaning: Meaning, unit: &str) -> Option<f64> {
    let (time, bytes) = match meaning {
        Meaning::CpuSeconds | Meaning::Requests => (true, false),
        Meaning::MemoryBytes | Meaning::MemoryLimit => (false, true),
        _ => (false, false),
    };
    Some(match unit {
        "" | "1" if !time && !bytes => 1.0,
        "" | "s" if time => 1.0,
        "ms" if time => 1e-3,
        "us" if time => 1e-6,
        "ns" if time => 1e-9,
        "" | "By" if bytes => 1.0,
        "KiBy" if bytes => 1024.0,
        "MiBy" if bytes => 1024.0 * 1024.0,
        "GiBy" if bytes => 1024.0 * 1024.0 * 1024.0,
        "kBy" if bytes => 1e3,
        "MBy" if bytes => 1e6,
        "GBy" if bytes => 1e9,
        "%" if matches!(meaning, Meaning::CpuShare | Meaning::MemoryShare) => 0.01,
        // Annotations such as {cpu} or {restart} have no size.
        other if !time && !bytes && other.starts_with('{') && other.ends_with('}') => 1.0,
        _ => return None,
    })
}
