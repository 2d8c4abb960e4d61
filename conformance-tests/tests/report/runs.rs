//! Runs of the suite, also on a failing store.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tenure_conformance::{
    Env, Harness, SUITE_VERSION,
    report::{self, Mark, Progress, Suite},
};
use tenure_core::{
    backend::Connect,
    error::{Error, ErrorKind},
    memory::MemoryStore,
};

struct Memory {
    away: bool,
}

struct Fresh(MemoryStore);

#[async_trait]
impl Harness for Memory {
    fn name(&self) -> &str {
        "memory"
    }

    async fn start(&self) -> Result<Arc<dyn Env>, Error> {
        match self.away {
            true => Err(Error::new(ErrorKind::Unavailable, "starting").with_detail("on purpose")),
            false => Ok(Arc::new(Fresh(MemoryStore::new()))),
        }
    }

    fn expected_ignores(&self) -> &[(&'static str, &'static str)] {
        &[("secrets::malformed_state_is_an_error", "known beforehand")]
    }
}

impl Env for Fresh {
    fn connector(&self) -> Arc<dyn Connect> {
        Arc::new(self.0.clone())
    }
}

fn suite(filter: &str) -> Suite {
    Suite::new(Arc::new(Memory { away: false }))
        .strict(false)
        .filter(Some(filter.to_owned()))
}

#[test]
fn run_reports_progress_and_all_cases() {
    let suite = suite("capabilities::").jobs(2);
    let chosen: Vec<&str> = suite.chosen().iter().map(|case| case.id).collect();
    assert!(chosen.len() > 2 && chosen.iter().all(|id| id.starts_with("capabilities::")));
    let told = Mutex::new((BTreeSet::new(), BTreeSet::new()));
    let report = suite.run(&|progress| {
        let mut told = told.lock().unwrap();
        match progress {
            Progress::Began(case) => assert!(told.0.insert(case.id.to_owned())),
            Progress::Ended(case) => assert!(told.1.insert(case.id.clone())),
            _ => {}
        }
    });
    let (began, ended) = told.into_inner().unwrap();
    assert_eq!(began, ended);
    let reported: Vec<&str> = report.cases.iter().map(|case| case.id.as_str()).collect();
    assert_eq!(reported, chosen, "in the order of the table");
    assert!(report.has_passed(), "{report:?}");
    assert_eq!(
        (report.suite, report.backend.as_str()),
        (SUITE_VERSION, "memory")
    );
}

#[test]
fn strict_run_fails_unexpected_ignores_only() {
    let verdicts = |strict: bool| -> Vec<Mark> {
        let report = suite("secrets::").strict(strict).run(&|_| {});
        report.cases.iter().map(|case| case.verdict).collect()
    };
    assert_eq!(verdicts(false), [Mark::Ignored; 3]);
    assert_eq!(verdicts(true), [Mark::Failed, Mark::Ignored, Mark::Failed]);
    let report = suite("secrets::").run(&|_| {});
    assert!(!report.has_passed(), "a run of no case proves nothing");
}

#[test]
fn unreachable_store_fails_the_probe_and_each_case_with_the_reason() {
    let suite = Suite::new(Arc::new(Memory { away: true })).filter(Some("names::".to_owned()));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    assert_eq!(
        runtime.block_on(suite.probe()).unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    let report = suite.run(&|_| {});
    assert!(!report.cases.is_empty() && report.count(Mark::Failed) == report.cases.len());
    let reason = report.cases[0].reason.as_deref().unwrap();
    assert!(reason.contains("on purpose"), "{reason}");
    let harness: Arc<dyn Harness> = Arc::new(Memory { away: true });
    let stress = report::stress(&harness, Duration::from_millis(100));
    assert!(
        stress
            .verdict()
            .is_some_and(|reason| reason.contains("on purpose"))
    );
}

#[test]
fn report_contains_the_declared_capabilities() {
    let suite = suite("capabilities::make_sense");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let declared = runtime.block_on(suite.probe()).unwrap();
    assert_eq!(declared.durability, "volatile");
    let report = suite.run(&|_| {});
    assert_eq!(report.capabilities.as_ref(), Some(&declared));
    assert_eq!(report.scheme.as_deref(), Some("memory"));
}

#[test]
fn stopped_run_starts_no_further_case() {
    let stop = Arc::new(AtomicBool::new(false));
    let report = suite("names::")
        .jobs(1)
        .stopped_by(Arc::clone(&stop))
        .run(&|progress| {
            if let Progress::Ended(_) = progress {
                stop.store(true, Ordering::Relaxed);
            }
        });
    assert_eq!(report.cases.len(), 1);
}

#[test]
fn stress_run_records_a_history_with_the_fault() {
    let harness: Arc<dyn Harness> = Arc::new(Memory { away: false });
    let stress = report::stress(&harness, Duration::from_secs(1));
    assert!(stress.has_passed(), "{:?}", stress.verdict());
    let history = &stress.history;
    assert_eq!(history.faults.len(), 1);
    let workers: BTreeSet<u32> = history.grants.iter().map(|grant| grant.worker).collect();
    assert!(
        workers.len() > 1 && history.grants.len() >= 6,
        "{history:?}"
    );
}
