//! The conformance suite on the table, one `#[test]` per case.

use std::sync::Arc;

use tenure::{
    Error, Factory,
    backend::Connect,
    settings::{Settings, StoreUrl},
};
use tenure_conformance::{Env, Harness, fault::Faulty};
use tenure_table::TableFactory;

struct Tables;

struct Fresh(Arc<dyn Connect>);

#[async_trait::async_trait]
impl Harness for Tables {
    fn name(&self) -> &str {
        "table"
    }

    async fn start(&self) -> Result<Arc<dyn Env>, Error> {
        let settings = Settings::new(StoreUrl::parse("table:fresh")?);
        Ok(Arc::new(Fresh(TableFactory::default().open(&settings)?)))
    }
}

#[async_trait::async_trait]
impl Env for Fresh {
    fn connector(&self) -> Arc<dyn Connect> {
        Arc::clone(&self.0)
    }

    // There is no network to break, so the suite injects faults above the driver.
    async fn faulty(&self) -> Result<Option<Faulty>, Error> {
        Ok(Some(Faulty::above(self.connector())))
    }
}

tenure_conformance::conformance_tests! {
    Tables,
    ignored: {
        exclusion::processes_never_overlap: "the table exists inside one process",
        exclusion::killed_process_is_succeeded: "the table exists inside one process",
        faults::stopped_process_finds_its_lock_lost: "the table exists inside one process",
        token::rises_over_deletion: "the harness cannot delete rows by hand",
        deadline::pushed_grant_counts_from_last_report: "the table cannot send messages",
        deadline::messages_are_dated_after_the_answers: "the table cannot send messages",
        waiting::leaving_loses_nobodys_message: "the table cannot send messages",
        loss::deletion_is_noticed_as_declared: "the harness cannot delete rows by hand",
        waiting::message_wakes_the_waiter: "the table cannot send messages",
        servers::stopped_past_the_ttl: "the table has no server",
        servers::killed_past_the_ttl: "the table has no server",
        servers::killed_for_a_moment: "the table has no server",
        servers::slow_server_is_left: "the table has no server",
        servers::failover: "the table has no server",
        servers::partition: "the table has no server",
        secrets::show_nowhere: "the table has no secrets",
        secrets::malformed_state_is_an_error: "the harness cannot damage rows",
        secrets::newer_state_is_refused: "the harness cannot rewrite rows",
    }
}
