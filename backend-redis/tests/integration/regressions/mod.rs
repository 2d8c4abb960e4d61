//! Situations that once broke a clause on this backend, or nearly did: hostile and malformed state,
//! manually deleted state, a distant server, forged messages, late requests.

mod connecting;
mod forged_messages;
mod late_enqueue;
mod malformed_state;
mod plain_keys;
mod restarts;
mod shutdown;
mod slow_link;
mod tokens;
