//! The conformance suite on the line server.

use std::{process::ExitCode, sync::Arc};

use async_trait::async_trait;
use tenure::{
    Error, ErrorKind, Factory,
    backend::Connect,
    secret::Secret,
    settings::{Settings, StoreUrl},
};
use tenure_conformance::{Env, Harness, fault::Faulty};
use tenure_line::{LineFactory, server};

const PASSWORD: &str = "canary-51c0";

struct Lines;

struct Fresh {
    address: String,
    connect: Arc<dyn Connect>,
}

fn connect(url: &str) -> Result<Arc<dyn Connect>, Error> {
    let settings =
        Settings::new(StoreUrl::parse(url)?).with_credentials(None, Some(Secret::new(PASSWORD)));
    LineFactory::default().open(&settings)
}

fn open(address: &str) -> Result<Arc<dyn Env>, Error> {
    Ok(Arc::new(Fresh {
        address: address.to_owned(),
        connect: connect(&format!("line://{address}"))?,
    }))
}

#[async_trait]
impl Harness for Lines {
    fn name(&self) -> &str {
        "line"
    }

    async fn start(&self) -> Result<Arc<dyn Env>, Error> {
        let bound = server::serve("127.0.0.1:0", PASSWORD.to_owned()).await;
        let bound = bound.map_err(|source| {
            Error::new(ErrorKind::Unavailable, "starting the line server").with_source(source)
        })?;
        open(&bound.to_string())
    }

    async fn join(&self, ticket: &str) -> Result<Arc<dyn Env>, Error> {
        open(ticket)
    }

    fn expected_ignores(&self) -> &[(&'static str, &'static str)] {
        &[
            (
                "token::rises_over_deletion",
                "the server has no way to delete a lock's state",
            ),
            (
                "loss::deletion_is_noticed_as_declared",
                "the server has no way to delete a lock's state",
            ),
            ("modes::*", "the plugin offers exclusive locks alone"),
            (
                "servers::*",
                "the server is a thread of the test, which cannot be stopped",
            ),
            (
                "secrets::malformed_state_is_an_error",
                "the state is not kept as bytes",
            ),
            (
                "secrets::newer_state_is_refused",
                "the state is not kept as bytes",
            ),
        ]
    }
}

#[async_trait]
impl Env for Fresh {
    fn connector(&self) -> Arc<dyn Connect> {
        Arc::clone(&self.connect)
    }

    // The suite starts a proxy in front of the server and breaks its connections.
    async fn faulty(&self) -> Result<Option<Faulty>, Error> {
        let address = format!("line://{}", self.address);
        Faulty::to(&address, |address| connect(&address))
            .await
            .map(Some)
    }

    fn ticket(&self) -> Option<String> {
        Some(self.address.clone())
    }

    fn secrets(&self) -> Vec<String> {
        vec![PASSWORD.to_owned()]
    }
}

fn main() -> ExitCode {
    tenure_conformance::main(Lines)
}
