//! Runs the whole table on a harness, and makes a report of what came of it.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use tenure_core::{
    backend::BackendInfo,
    clock::{Clock, Instant, SystemClock},
    error::Error,
    token::FencingToken,
};

use super::{CaseReport, DeclaredCapabilities, Machine, Mark, Report, SCHEMA, environment::millis};
use crate::{
    Harness, SUITE_VERSION,
    case::Case,
    cases,
    driver::Driver,
    runner::{Verdict, run_launching, strict},
    worker::Launcher,
};

/// How many cases run at the same time, unless somebody says otherwise. Most of what they do is to
/// wait.
pub(crate) const JOBS: usize = 6;

/// A run of the suite on one backend.
pub struct Suite {
    harness: Arc<dyn Harness>,
    launcher: Option<Launcher>,
    filter: Option<String>,
    jobs: usize,
    strict: bool,
    stop: Arc<AtomicBool>,
    began: (SystemTime, Instant),
    done: Mutex<Vec<CaseReport>>,
    about: Mutex<Option<(BackendInfo, DeclaredCapabilities)>>,
}

impl fmt::Debug for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Suite")
            .field("backend", &self.harness.name())
            .field("filter", &self.filter)
            .finish_non_exhaustive()
    }
}

/// What a run tells while it goes on.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// A case began.
    Began(&'a Case),
    /// A case ended so.
    Ended(&'a CaseReport),
}

impl Suite {
    /// The whole suite on that harness. It is strict if `CONFORMANCE_STRICT` is set.
    #[must_use]
    pub fn new(harness: Arc<dyn Harness>) -> Self {
        Self {
            harness,
            launcher: None,
            filter: None,
            jobs: JOBS,
            strict: strict(),
            stop: Arc::default(),
            began: (SystemTime::now(), SystemClock.now()),
            done: Mutex::default(),
            about: Mutex::default(),
        }
    }

    /// Lets cases start this program again as a worker with these arguments. With them it has to come
    /// to [`serve_if_asked`](crate::serve_if_asked), on the same store.
    #[must_use]
    pub fn workers(mut self, arguments: Vec<std::ffi::OsString>) -> Self {
        self.launcher = Some(Launcher::with(arguments));
        self
    }

    pub(crate) fn launcher(mut self, launcher: Launcher) -> Self {
        self.launcher = Some(launcher);
        self
    }

    /// Only cases whose ids contain this text.
    #[must_use]
    pub fn filter(mut self, text: Option<String>) -> Self {
        self.filter = text;
        self
    }

    /// How many cases run at the same time; at least one.
    #[must_use]
    pub fn jobs(mut self, jobs: usize) -> Self {
        self.jobs = jobs.max(1);
        self
    }

    /// Whether a case that does not apply, and of which the harness has not said so beforehand,
    /// counts as failed.
    #[must_use]
    pub const fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// No case begins once this is set.
    #[must_use]
    pub fn stopped_by(mut self, stop: Arc<AtomicBool>) -> Self {
        self.stop = stop;
        self
    }

    /// The cases that would be run.
    #[must_use]
    pub fn chosen(&self) -> Vec<Case> {
        let mut chosen = cases();
        if let Some(text) = &self.filter {
            chosen.retain(|case| case.id.contains(text.as_str()));
        }
        chosen
    }

    /// Asks the backend what it is, in an environment of its own.
    ///
    /// # Errors
    ///
    /// Whatever keeps the store from being used.
    ///
    /// # Cancel safety
    ///
    /// Cancelling may leave the environment as it is.
    pub async fn probe(&self) -> Result<DeclaredCapabilities, Error> {
        let env = self.harness.start().await?;
        let connector = env.connector();
        let asked = async {
            let floor = FencingToken::new(0);
            let driver = Driver::connect(&*connector, env.namespace(), floor).await?;
            let capabilities = driver.backend().capabilities().await;
            driver.backend().close().await;
            capabilities
        };
        let capabilities = asked.await;
        env.finish().await;
        let declared = DeclaredCapabilities::of(&capabilities?);
        let mut about = self.about.lock().unwrap_or_else(PoisonError::into_inner);
        *about = Some((connector.info(), declared.clone()));
        Ok(declared)
    }

    /// Runs the chosen cases, from outside of any runtime. `progress` is called from several
    /// threads.
    #[must_use]
    pub fn run(self, progress: &(dyn Fn(Progress<'_>) + Sync)) -> Report {
        let chosen = self.chosen();
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.min(chosen.len()) {
                scope.spawn(|| {
                    while !self.stop.load(Ordering::Relaxed)
                        && let Some(case) = chosen.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        progress(Progress::Began(case));
                        progress(Progress::Ended(&self.run_one(case)));
                    }
                });
            }
        });
        self.report()
    }

    /// Runs one case, and takes down what came of it.
    pub(crate) fn run_one(&self, case: &Case) -> CaseReport {
        let began = SystemClock.now();
        let launcher = self.launcher.clone();
        let verdict = run_launching(case, &self.harness, launcher, self.strict);
        let (verdict, reason) = match verdict {
            Verdict::Passed => (Mark::Passed, None),
            Verdict::Failed(text) => (Mark::Failed, Some(text)),
            Verdict::Ignored(reason) => (Mark::Ignored, Some(reason)),
        };
        let report = CaseReport {
            id: case.id.to_owned(),
            clauses: case
                .clauses
                .iter()
                .map(|&clause| clause.to_owned())
                .collect(),
            needs: case.needs.map(|need| format!("{need:?}")),
            about: case.about.to_owned(),
            verdict,
            reason,
            duration_ms: millis(SystemClock.now().since(began)),
        };
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.push(report.clone());
        report
    }

    /// What was taken down up to now.
    pub(crate) fn report(&self) -> Report {
        let about = self.about.lock().unwrap_or_else(PoisonError::into_inner);
        let (info, capabilities) = about.clone().unzip();
        let mut done = self
            .done
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let table = cases();
        done.sort_by_key(|done| table.iter().position(|case| case.id == done.id));
        Report {
            schema: SCHEMA.to_owned(),
            suite: SUITE_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            backend: self.harness.name().to_owned(),
            scheme: info.as_ref().map(|info| info.scheme.to_owned()),
            endpoint: info.map(|info| info.endpoint),
            store_version: self.harness.store_version(),
            capabilities,
            machine: Machine::this(),
            started: humantime::format_rfc3339_seconds(self.began.0).to_string(),
            duration_ms: millis(SystemClock.now().since(self.began.1)),
            jobs: self.jobs,
            filter: self.filter.clone(),
            strict: self.strict,
            cases: done,
            stress: None,
            left: Vec::new(),
        }
    }
}
