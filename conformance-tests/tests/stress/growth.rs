//! Whether the resources of a run grow: memory, descriptors, connections, tasks, and the store's own size.

use std::{alloc::System, fmt, fs, time::Duration};

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::runtime::Handle;

/// A growth of a number below this is no leak: the numbers of two quiet moments differ by a few (a connection
/// that is still being closed).
const MAX_NUMBER_GROWTH: f64 = 10.0;
/// Nor is a growth below this share of the number: a client of etcd has one to three connections, which depends
/// on the last faults. A leak of one for every hundred faults grows by more than both in forty minutes, in
/// which there are 15,000 faults.
const MAX_NUMBER_GROWTH_SHARE: f64 = 0.2;
/// A growth of memory below this is no leak: buffers of connections differ from one quiet moment to another. A
/// leak of 200 bytes for each fault grows more in forty minutes.
const MAX_MEMORY_GROWTH: f64 = 2e6;
/// Nor is a growth below this share of a larger memory.
const MAX_MEMORY_GROWTH_SHARE: f64 = 0.1;
/// A line through fewer samples says nothing.
const MIN_SAMPLES: usize = 3;

/// The unit of a figure. It decides how much the figure may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// Descriptors, tasks, keys.
    Number,
    /// Memory or disk space.
    Bytes,
}

/// One resource at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    name: &'static str,
    unit: Unit,
    value: f64,
    grows_by_design: bool,
}

impl Figure {
    pub(crate) fn number(name: &'static str, value: f64) -> Self {
        Self {
            name,
            unit: Unit::Number,
            value,
            grows_by_design: false,
        }
    }

    pub(crate) fn bytes(name: &'static str, value: f64) -> Self {
        Self {
            unit: Unit::Bytes,
            ..Self::number(name, value)
        }
    }

    /// Only prints this figure.
    pub(crate) fn that_grows_by_design(self) -> Self {
        Self {
            grows_by_design: true,
            ..self
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unit {
            Unit::Number => write!(f, "{:.0} {}", self.value, self.name),
            Unit::Bytes => write!(f, "{:.2} MB {}", self.value / 1e6, self.name),
        }
    }
}

/// Counts what the program has allocated. Resident memory also depends on what the allocator keeps.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Measures this process. `history` are the bytes that the recorder has allocated.
pub(crate) fn of_process(history: usize) -> Vec<Figure> {
    let stats = ALLOCATOR.stats();
    let allocated = stats.bytes_allocated - stats.bytes_deallocated;
    let descriptors: Vec<_> = fs::read_dir("/proc/self/fd")
        .unwrap()
        // The descriptor of the listing itself has no target any more.
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .collect();
    let sockets = descriptors
        .iter()
        .filter(|target| target.to_string_lossy().starts_with("socket:"));
    let tasks = Handle::current().metrics().num_alive_tasks();
    vec![
        Figure::bytes("allocated", allocated.saturating_sub(history) as f64),
        Figure::bytes("of history", history as f64).that_grows_by_design(),
        // Of the program and its history.
        Figure::bytes("resident", resident_memory()).that_grows_by_design(),
        Figure::number("sockets", sockets.count() as f64),
        Figure::number("descriptors", descriptors.len() as f64),
        Figure::number("tasks", tasks as f64),
    ]
}

/// Returns the bytes of resident memory without the pages of the program's file.
fn resident_memory() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let kilobytes = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:")?.strip_suffix("kB"));
    kilobytes.unwrap().trim().parse::<f64>().unwrap() * 1024.0
}

/// The samples of a run.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    all: Vec<(Duration, Vec<Figure>)>,
}

impl Samples {
    /// Prints and keeps the figures at a time since the start of the run. Each sample has the same figures, in
    /// the same order.
    pub(crate) fn add(&mut self, what: &str, at: Duration, figures: Vec<Figure>) {
        let list: Vec<_> = figures.iter().map(ToString::to_string).collect();
        println!("{what}: after {:4} s: {}", at.as_secs(), list.join(", "));
        self.all.push((at, figures));
    }

    /// Panics if a figure has grown since the warm-up.
    pub(crate) fn judge(&self, what: &str, warm_up: Duration) {
        let measured = self.all.iter().filter(|(at, _)| *at >= warm_up).count();
        if measured < MIN_SAMPLES {
            println!("{what}: too short to tell whether anything grows: {measured} samples");
            return;
        }
        let growing = self.growing(warm_up);
        assert!(growing.is_empty(), "{what}: {}", growing.join("; "));
        println!("{what}: nothing has grown in the last {measured} samples");
    }

    /// Describes the figures that have grown more than they may.
    pub(crate) fn growing(&self, warm_up: Duration) -> Vec<String> {
        let measured: Vec<_> = self.all.iter().filter(|(at, _)| *at >= warm_up).collect();
        let Some((_, first)) = measured.first() else {
            return Vec::new();
        };
        let grown = first.iter().enumerate().filter_map(|(index, figure)| {
            let points = measured
                .iter()
                .map(|(at, figures)| (at.as_secs_f64(), figures[index].value));
            let points: Vec<_> = points.collect();
            let mean = points.iter().map(|(_, value)| value).sum::<f64>() / points.len() as f64;
            let bound = match figure.unit {
                Unit::Number => (mean * MAX_NUMBER_GROWTH_SHARE).max(MAX_NUMBER_GROWTH),
                Unit::Bytes => (mean * MAX_MEMORY_GROWTH_SHARE).max(MAX_MEMORY_GROWTH),
            };
            let of = |value| Figure { value, ..*figure };
            let growth = growth(&points);
            (growth > bound && !figure.grows_by_design).then(|| {
                let (growth, bound, mean) = (of(growth), of(bound), of(mean));
                format!("a leak: {growth} more, where {bound} are allowed and {mean} are the mean")
            })
        });
        grown.collect()
    }
}

/// Returns the growth between the first and the last point on the line that fits best: least squares, so that
/// one sample out of line neither causes nor hides a growth.
fn growth(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (mean_time, mean_value) = (mean(|point| point.0), mean(|point| point.1));
    let (mut covariance, mut variance) = (0.0, 0.0);
    for (time, value) in points {
        covariance += (time - mean_time) * (value - mean_value);
        variance += (time - mean_time).powi(2);
    }
    let span = points.last().map_or(0.0, |last| last.0 - points[0].0);
    if variance > 0.0 {
        covariance / variance * span
    } else {
        0.0
    }
}
