//! The facade of `tenure`: the core, the backends that the features select, and the configuration.
//!
//! A program that selects its store by configuration needs only this crate:
//!
//! ```no_run
//! use tenure::{Config, Sources, default_registry};
//!
//! # async fn example() -> Result<(), tenure::Error> {
//! let config = Config::load(&Sources::new().file("app.toml").environment())?;
//! let client = config.connect(&default_registry()).await?;
//! let lock = client.lock("nightly-report")?;
//! let guard = lock.acquire().await?;
//! println!("token {}", guard.token());
//! guard.release().await;
//! # Ok(())
//! # }
//! ```

pub mod config;
mod defaults;

/// The code of the README, as doctests.
#[cfg(all(doctest, feature = "file"))]
#[doc = include_str!("../../README.md")]
struct Readme;

pub use tenure_core::*;
#[cfg(feature = "etcd")]
pub use tenure_etcd as etcd;
#[cfg(feature = "file")]
pub use tenure_file as file;
#[cfg(feature = "redis")]
pub use tenure_redis as redis;
#[cfg(feature = "zookeeper")]
pub use tenure_zookeeper as zookeeper;

pub use crate::{
    config::{Config, Sources},
    defaults::default_registry,
    error::{Error, ErrorKind},
    registry::{Factory, Registry},
    settings::StoreUrl,
};
