//! A backend on the driver trait, for a lock server with a line protocol. The modules `wire`, `server`
//! and `client` represent a store and its client library. A plugin consists of the module `backend` and
//! this file.

mod backend;
mod client;
pub mod server;
mod wire;

use std::sync::Arc;

pub use backend::LineStore;
use tenure::{Error, ErrorKind, Factory, backend::Connect, settings::Settings};

/// Opens URLs such as `line://127.0.0.1:7777`.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct LineFactory;

impl Factory for LineFactory {
    fn schemes(&self) -> &[&'static str] {
        &["line"]
    }

    fn summary(&self) -> &'static str {
        "the example's line server: line://HOST:PORT"
    }

    fn open(&self, settings: &Settings) -> Result<Arc<dyn Connect>, Error> {
        let [host] = settings.url.hosts() else {
            return Err(Error::new(ErrorKind::Config, "opening a line server")
                .with_backend("line")
                .with_detail("name one server, as in `line://127.0.0.1:7777`"));
        };
        let address = format!("{}:{}", host.name, host.port.unwrap_or(7777));
        let password = settings.password.clone().unwrap_or_default();
        Ok(Arc::new(LineStore { address, password }))
    }
}
