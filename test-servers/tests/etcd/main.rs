//! What the etcd servers of this crate do when they are started, asked, broken and ended.

mod groups;
mod lifecycle;

use std::time::Duration;

/// How long something may take that has to happen.
const BOUND: Duration = Duration::from_secs(30);
