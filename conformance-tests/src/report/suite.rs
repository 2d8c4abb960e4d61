//! Runs all cases on a harness and creates the report.

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
    launcher::Launcher,
    runner::{Verdict, run_launching, strict},
};

/// The default number of cases that run at the same time. Cases mostly wait.
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

/// The progress of a run.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// A case started.
    Began(&'a Case),
    /// A case ended with this report.
    Ended(&'a CaseReport),
}

impl Suite {
    /// Creates a run of all cases on the given harness. It is strict if `CONFORMANCE_STRICT` is set.
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

    /// Sets the arguments with which cases start this program again as a worker. With these arguments the
    /// program must call [`serve_if_asked`](crate::serve_if_asked) on the same store.
    #[must_use]
    pub fn workers(mut self, arguments: Vec<std::ffi::OsString>) -> Self {
        self.launcher = Some(Launcher::with(arguments));
        self
    }

    pub(crate) fn launcher(mut self, launcher: Launcher) -> Self {
        self.launcher = Some(launcher);
        self
    }

    /// Restricts the run to cases whose ids contain this text.
    #[must_use]
    pub fn filter(mut self, text: Option<String>) -> Self {
        self.filter = text;
        self
    }

    /// Sets the number of cases that run at the same time, at least one.
    #[must_use]
    pub fn jobs(mut self, jobs: usize) -> Self {
        self.jobs = jobs.max(1);
        self
    }

    /// Sets whether a case that does not apply, and that [`Harness::expected_ignores`] does not name, counts
    /// as failed.
    #[must_use]
    pub const fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// Sets a flag: when it is true, no further case starts.
    #[must_use]
    pub fn stopped_by(mut self, stop: Arc<AtomicBool>) -> Self {
        self.stop = stop;
        self
    }

    /// Returns the cases of the run.
    #[must_use]
    pub fn chosen(&self) -> Vec<Case> {
        let mut chosen = cases();
        if let Some(text) = &self.filter {
            chosen.retain(|case| case.id.contains(text.as_str()));
        }
        chosen
    }

    /// Reads the capabilities of the backend, in a separate environment.
    ///
    /// # Errors
    ///
    /// An error that makes the store unusable.
    ///
    /// # Cancel safety
    ///
    /// Cancelling may skip the clean-up of the environment.
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

    /// Runs the cases. Call this function outside of any runtime. Several threads call `progress`.
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

    /// Runs one case and records its report.
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

    /// Returns the report up to now.
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
