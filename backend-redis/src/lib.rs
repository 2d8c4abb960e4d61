//! Locks on Redis.
mod error;
mod keys;
mod link;
mod record;
mod reply;
mod scripts;
