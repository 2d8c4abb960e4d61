//! The ZooKeeper backend of `tenure`.
