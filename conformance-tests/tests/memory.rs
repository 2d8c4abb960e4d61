//! The suite on the memory backend.

use std::{process::ExitCode, sync::Arc};

use async_trait::async_trait;
use tenure_conformance::{Env, Harness, fault::Faulty};
use tenure_core::{
    backend::Connect,
    error::Error,
    memory::MemoryStore,
    name::{LockName, Namespace},
};

struct Memory;

struct Fresh(MemoryStore);

#[async_trait]
impl Harness for Memory {
    fn name(&self) -> &str {
        "memory"
    }

    async fn start(&self) -> Result<Arc<dyn Env>, Error> {
        Ok(Arc::new(Fresh(MemoryStore::new())))
    }

    fn expected_ignores(&self) -> &[(&'static str, &'static str)] {
        &[
            (
                "exclusion::processes_never_overlap",
                "the store lives inside of one process",
            ),
            (
                "exclusion::killed_process_is_succeeded",
                "the store lives inside of one process",
            ),
            (
                "faults::stopped_process_finds_its_lock_lost",
                "the store lives inside of one process",
            ),
            ("secrets::show_nowhere", "the store knows no secret"),
            ("servers::*", "the store has no server"),
            (
                "secrets::malformed_state_is_an_error",
                "the state is no bytes that could be malformed",
            ),
            (
                "secrets::newer_state_is_refused",
                "the state ends with the process, and has one version",
            ),
        ]
    }
}

#[async_trait]
impl Env for Fresh {
    fn connector(&self) -> Arc<dyn Connect> {
        Arc::new(self.0.clone())
    }

    async fn faulty(&self) -> Result<Option<Faulty>, Error> {
        Ok(Some(Faulty::above(self.connector())))
    }

    async fn delete_state(&self, name: &LockName) -> Result<bool, Error> {
        self.0.delete_state(&Namespace::default(), name);
        Ok(true)
    }

    async fn residue(&self) -> Result<Option<usize>, Error> {
        Ok(Some(self.0.residue(&Namespace::default())))
    }
}

fn main() -> ExitCode {
    tenure_conformance::main(Memory)
}
