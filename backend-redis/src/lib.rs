//! Locks on Redis with FIFO order, fencing tokens and hand-over by push.
//!
//! This crate is a driver only. One Lua script per operation keeps the queue; the core decides
//! everything that is policy, such as when to renew and what a client may believe.
//!
//! ```no_run
//! use tenure_core::Client;
//! use tenure_redis::{Options, RedisStore};
//!
//! # async fn example() -> Result<(), tenure_core::error::Error> {
//! let url = "redis://127.0.0.1:6379".parse()?;
//! let client = Client::builder(RedisStore::open(&url, Options::default())?).connect().await?;
//! let guard = client.lock("nightly-report")?.acquire().await?;
//! println!("token {}", guard.token());
//! # Ok(())
//! # }
//! ```
//!
//! `docs/backends/redis.md` describes the server requirements, what a failover can lose, the rights
//! that a user needs, and each option.
//!
//! # Where the clauses are kept
//!
//! | clause | kept in |
//! |---|---|
//! | X1 | `scripts/enqueue.lua`, `scripts/enqueue_fast_path.lua`; `scripts/common.lua` (`expire_lapsed`); after a restart or with replicas `shared.rs` (`restart_delay_error`, `call_granting`) |
//! | A4 | `remove.rs` with `scripts/remove.lua`; `scripts/enqueue.lua` and `scripts/enqueue_fast_path.lua` check the fence |
//! | T1 | `scripts/min_token.lua`, `scripts/token.lua`; the floor of a client is an argument (`scripts/mod.rs`) |
//! | T3 | `scripts/enqueue.lua`: a known attempt gets its own grant again, by `scripts/common.lua` (`renew_or_report`) |
//! | W1 | `scripts/common.lua` (`append`, `first_live_waiter`, `promote_next`) |
//! | W3 | `scripts/common.lua` (`remove_waiter`, `promote_next`): one message to the next waiter; `scripts/joint.lua` (`advance`): one to each client |
//! | M1, M2, M3 | `scripts/joint.lua` (`admits`, `advance`, `join`) |
//! | M4 | `downgrade.rs` with `scripts/joint.lua` (`downgrade`); `scripts/renew_joint.lua` renews both forms |
//! | S3 | `scripts/records.lua`: records of format 2 for what is not exclusive |
//! | D1 | `enqueue.rs` and `renew.rs` read the clock before they send |
//! | D4 | `scripts/common.lua` (`promote_next`), `record.rs` (`read_message`); the core judges the push |
//! | L2 | `scripts/common.lua` (`promote_next`, `gone_reason`), `watch.rs` (`on_message`) |
//! | L5 | an error is `Unknown`, never `Gone`: `renew.rs`, `error.rs`; reconnection in `transport/supervisor.rs` |
//! | I2 | `scripts/evict.lua` |

mod address;
mod attempts;
mod backend;
mod check;
mod config;
mod downgrade;
mod enqueue;
mod error;
mod factory;
mod inspect;
mod keys;
mod queue;
mod record;
mod remove;
mod renew;
mod scripts;
mod shared;
mod transport;
mod watch;

pub use backend::RedisStore;
pub use config::{Durability, Eviction, Options};
pub use factory::RedisFactory;
