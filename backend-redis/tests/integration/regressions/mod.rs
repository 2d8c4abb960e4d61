//! What has once broken a clause on this backend, or nearly: hostile and malformed state, state that
//! was deleted by hand, a distant server, forged messages, late requests.

mod connecting;
mod forged_messages;
mod late_enqueue;
mod malformed_state;
mod plain_keys;
mod restarts;
mod shutdown;
mod slow_link;
mod tokens;
