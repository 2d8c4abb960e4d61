//! The etcd backend of `tenure`.
