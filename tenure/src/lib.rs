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

use tenure_core::settings::Settings;

/// The code of the pages, as doctests.
#[cfg(all(doctest, feature = "file"))]
mod pages {
    #[doc = include_str!("../../README.md")]
    struct Readme;

    #[doc = include_str!("../../docs/kinds.md")]
    struct Kinds;

    #[doc = include_str!("../../docs/migration.md")]
    struct Migration;

    #[doc = include_str!("../../docs/recipes.md")]
    struct Recipes;
}

pub use tenure_core::*;
#[cfg(feature = "etcd")]
pub use tenure_etcd as etcd;
#[cfg(feature = "file")]
pub use tenure_file as file;
#[cfg(feature = "redis")]
pub use tenure_redis as redis;
#[cfg(feature = "zookeeper")]
pub use tenure_zookeeper as zookeeper;

/// Returns the builder of a client of the store at this URL, with default options. For a program
/// without configuration files; [`Config`] reads them. Sends nothing.
///
/// ```
/// # #[cfg(feature = "file")]
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tenure::Error> {
/// # let dir = std::env::temp_dir().join(format!("tenure-doc-{}", std::process::id()));
/// # let url = format!("file:{}", dir.display());
/// let client = tenure::builder(url)?.namespace("billing").connect().await?;
/// let guard = client.lock("invoice-42")?.acquire().await?;
/// # drop(guard); std::fs::remove_dir_all(dir).ok(); Ok(()) }
/// # #[cfg(not(feature = "file"))] fn main() {}
/// ```
///
/// # Errors
///
/// An error of the kind [`ErrorKind::Config`] for a URL that is not valid, or whose backend is not
/// part of this build.
pub fn builder(url: impl AsRef<str>) -> Result<ClientBuilder, Error> {
    let url = StoreUrl::parse(url.as_ref())?;
    let store = default_registry().open(&Settings::new(url))?;
    Ok(Client::builder(store))
}

/// Connects to the store at this URL, with the defaults of the client and the store.
///
/// # Errors
///
/// As [`builder`] and [`ClientBuilder::connect`].
///
/// # Cancel safety
///
/// As [`ClientBuilder::connect`].
pub async fn connect(url: impl AsRef<str>) -> Result<Client, Error> {
    builder(url)?.connect().await
}

pub use crate::{
    config::{Config, Sources},
    defaults::default_registry,
    error::{Error, ErrorKind},
    registry::{Factory, Registry},
    settings::StoreUrl,
};
