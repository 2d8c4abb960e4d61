//! Runs one case in a separate runtime and environment, with a time limit, and catches panics.

use std::{future::Future, sync::Arc, time::Duration};

use tenure_core::clock::{Clock, SystemClock};

use crate::{
    case::Case,
    context::CaseContext,
    harness::Harness,
    launcher::Launcher,
    outcome::{Failure, Need, Stop},
    stall_detector,
};

/// The time limit of a case, to which [`CASE_TIMEOUT_TTLS`] short TTLs of the backend are added.
const CASE_TIMEOUT: Duration = Duration::from_secs(90);
const CASE_TIMEOUT_TTLS: u32 = 40;
/// The number of trials of a case that fails while the machine stalls.
const MAX_TRIALS: u32 = 3;

/// How a case ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Verdict {
    /// The case passed.
    Passed,
    /// The case failed for this reason.
    Failed(String),
    /// The case does not apply for this reason.
    Ignored(String),
}

/// Runs one case on a harness. Call this function outside of any runtime.
#[must_use]
pub fn run_case(case: &Case, harness: &Arc<dyn Harness>) -> Verdict {
    run_launching(case, harness, None, strict())
}

/// Like [`run_case`], but strict, whatever the environment says: a failing preview is a failure, and so
/// is a case that does not apply and that [`Harness::expected_ignores`] does not name.
#[must_use]
pub fn run_case_strictly(case: &Case, harness: &Arc<dyn Harness>) -> Verdict {
    run_within(case, harness, None, None, true)
}

pub(crate) fn run_launching(
    case: &Case,
    harness: &Arc<dyn Harness>,
    launcher: Option<Launcher>,
    strict: bool,
) -> Verdict {
    run_within(case, harness, launcher, None, strict)
}

fn run_within(
    case: &Case,
    harness: &Arc<dyn Harness>,
    launcher: Option<Launcher>,
    limit: Option<Duration>,
    strict: bool,
) -> Verdict {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return Verdict::Failed(format!("no runtime: {error}")),
    };
    let verdict = runtime.block_on(trials(|| {
        run(*case, Arc::clone(harness), launcher.clone(), limit)
    }));
    runtime.shutdown_timeout(Duration::from_secs(1));
    judge(case, &**harness, verdict, strict)
}

/// Returns whether unexpected ignores and failing previews are failures.
pub(crate) fn strict() -> bool {
    std::env::var_os("CONFORMANCE_STRICT").is_some_and(|value| value != "0" && !value.is_empty())
}

/// Returns the reason that a harness declares for a case that does not apply.
pub(crate) fn expected<'a>(case: &Case, harness: &'a dyn Harness) -> Option<&'a str> {
    let matches_id = |id: &str| match id.strip_suffix('*') {
        // A group stands for its cases with a requirement.
        Some(group) => {
            let of_group = |need: Need| {
                need == Need::Faults || need.is_about_servers() || need.is_about_modes()
            };
            case.needs.is_some_and(of_group) && case.id.starts_with(group)
        }
        None => id == case.id,
    };
    let mut known = harness.expected_ignores().iter();
    known.find_map(|(id, reason)| matches_id(id).then_some(*reason))
}

fn judge(case: &Case, harness: &dyn Harness, stop: Result<(), Stop>, strict: bool) -> Verdict {
    match stop {
        Ok(()) => Verdict::Passed,
        Err(Stop::Failed(failure)) if case.is_preview() && !strict => Verdict::Ignored(format!(
            "a preview of version {} of the suite; it failed: {failure}",
            case.since
        )),
        Err(Stop::Failed(failure)) => Verdict::Failed(failure.to_string()),
        // A case may only be ignored for its declared requirement.
        Err(Stop::Ignored(need)) if case.needs != Some(need) => Verdict::Failed(format!(
            "the case does not apply ({}), but declares no such need",
            need.missing()
        )),
        Err(Stop::Ignored(need)) => ignored(case, harness, need, strict),
    }
}

fn ignored(case: &Case, harness: &dyn Harness, need: Need, strict: bool) -> Verdict {
    match expected(case, harness) {
        Some(reason) => Verdict::Ignored(reason.to_owned()),
        None if strict => Verdict::Failed(format!(
            "the case does not apply ({}), which the harness does not expect; with \
             CONFORMANCE_STRICT=1 this is a failure: implement the requirement, or name the case in \
             `expected_ignores`",
            need.missing()
        )),
        None => Verdict::Ignored(need.missing().to_owned()),
    }
}

/// Repeats the case until a trial passes, or fails without a stall of the machine.
async fn trials<F>(mut trial: impl FnMut() -> F) -> Result<(), Stop>
where
    F: Future<Output = Result<(), Stop>>,
{
    stall_detector::start();
    let mut number = 1;
    loop {
        let begin = SystemClock.now();
        let failure = match trial().await {
            Err(Stop::Failed(failure)) => failure,
            verdict => return verdict,
        };
        match stall_detector::longest_stall_since(begin) {
            None => return Err(failure.into()),
            Some(_) if number < MAX_TRIALS => number += 1,
            Some(longest) => {
                return Err(failure
                    .with_note(format!(
                        "in each of {MAX_TRIALS} trials this machine or the store stalled, the last time for \
                         {longest:?}"
                    ))
                    .into());
            }
        }
    }
}

async fn run(
    case: Case,
    harness: Arc<dyn Harness>,
    launcher: Option<Launcher>,
    limit: Option<Duration>,
) -> Result<(), Stop> {
    let env = harness
        .start()
        .await
        .map_err(|error| Failure::new(None, format!("cannot use {}: {error}", harness.name())))?;
    let context = match CaseContext::new(Arc::clone(&env), launcher).await {
        Ok(context) => Arc::new(context),
        Err(stop) => {
            env.finish().await;
            return Err(stop);
        }
    };
    let limit = limit.unwrap_or_else(|| CASE_TIMEOUT + context.short() * CASE_TIMEOUT_TTLS);
    let mut task = tokio::spawn((case.run)(Arc::clone(&context)));
    let outcome = tokio::time::timeout(limit, &mut task).await;
    let outcome = match outcome {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) if error.is_panic() => Err(panicked(&*error.into_panic()).into()),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => {
            task.abort();
            let text = format!("the case did not end within {limit:?}");
            Err(Failure::new(None, text).into())
        }
    };
    // A hanging store must not delay the verdict.
    let _ = tokio::time::timeout(Duration::from_secs(10), context.finish()).await;
    outcome
}

fn panicked(payload: &(dyn std::any::Any + Send)) -> Failure {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    Failure::new(None, format!("the case panicked: {text}"))
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use tenure_core::{backend::Connect, error::Error, memory::MemoryStore};

    use super::*;
    use crate::{Env, outcome::Outcome};

    struct Plain;

    #[async_trait]
    impl Harness for Plain {
        fn name(&self) -> &str {
            "plain"
        }

        async fn start(&self) -> Result<Arc<dyn Env>, Error> {
            Ok(Arc::new(Fresh(MemoryStore::new())))
        }

        fn expected_ignores(&self) -> &[(&'static str, &'static str)] {
            &[("tests::expected", "expected here")]
        }
    }

    struct Fresh(MemoryStore);

    impl Env for Fresh {
        fn connector(&self) -> Arc<dyn Connect> {
            Arc::new(self.0.clone())
        }
    }

    async fn ignores() -> Outcome {
        Err(Stop::Ignored(Need::Secrets))
    }

    async fn panics() -> Outcome {
        std::panic::resume_unwind(Box::new("on purpose"))
    }

    async fn hangs() -> Outcome {
        std::future::pending().await
    }

    fn case(id: &'static str, run: fn(Arc<CaseContext>) -> crate::case::Run) -> Case {
        Case {
            id,
            clauses: &["S1"],
            needs: Some(Need::Secrets),
            since: 1,
            about: "",
            run,
        }
    }

    #[test]
    fn case_that_does_not_apply_never_passes() {
        let harness: Arc<dyn Harness> = Arc::new(Plain);
        let unexpected = case("tests::unexpected", |_| Box::pin(ignores()));
        let expected = case("tests::expected", |_| Box::pin(ignores()));
        let undeclared = Case {
            needs: Some(Need::Push),
            ..unexpected
        };
        let verdict = run_case(&expected, &harness);
        assert!(
            matches!(&verdict, Verdict::Ignored(why) if why == "expected here"),
            "{verdict:?}"
        );
        let verdict = run_case(&undeclared, &harness);
        assert!(matches!(&verdict, Verdict::Failed(why) if why.contains("no such need")));
        // Without the environment variable, which other tests of this process share.
        let verdict = ignored(&unexpected, &*harness, Need::Secrets, false);
        assert!(matches!(&verdict, Verdict::Ignored(why) if why == "no secret is configured"));
        let verdict = ignored(&unexpected, &*harness, Need::Secrets, true);
        assert!(matches!(&verdict, Verdict::Failed(why) if why.contains("expected_ignores")));
        let verdict = ignored(&expected, &*harness, Need::Secrets, true);
        assert!(matches!(verdict, Verdict::Ignored(_)));
    }

    #[tokio::test]
    async fn failure_during_a_stall_is_tried_again() {
        let tried = std::cell::Cell::new(0);
        let trial = |slow: u32, good: u32| {
            tried.set(tried.get() + 1);
            let (number, began) = (tried.get(), SystemClock.now());
            async move {
                if number <= slow {
                    stall_detector::record_request(began.before(Duration::from_secs(1)));
                }
                if number >= good {
                    return Ok(());
                }
                Err(Failure::new(Some("X1"), "on purpose").into())
            }
        };
        assert!(trials(|| trial(1, 2)).await.is_ok());
        assert_eq!(tried.take(), 2);
        let failed = trials(|| trial(9, 9)).await;
        assert!(matches!(&failed, Err(Stop::Failed(why)) if why.to_string().contains("3 trials")));
        assert_eq!(tried.take(), MAX_TRIALS);
    }

    #[test]
    fn preview_fails_strict_runs_only() {
        let preview = Case {
            since: crate::SUITE_VERSION,
            ..case("tests::preview", |_| Box::pin(panics()))
        };
        let stop = || Err(Failure::new(Some("X1"), "on purpose").into());
        let verdict = judge(&preview, &Plain, stop(), false);
        assert!(matches!(&verdict, Verdict::Ignored(why) if why.contains("on purpose")));
        let verdict = judge(&preview, &Plain, stop(), true);
        assert!(matches!(&verdict, Verdict::Failed(why) if why.contains("on purpose")));
    }

    #[test]
    fn panic_is_a_failure_with_its_message() {
        let harness: Arc<dyn Harness> = Arc::new(Plain);
        let verdict = run_case(&case("tests::panics", |_| Box::pin(panics())), &harness);
        assert!(
            matches!(&verdict, Verdict::Failed(why) if why.contains("on purpose")),
            "{verdict:?}"
        );
    }

    #[test]
    fn hanging_case_is_a_failure() {
        let harness: Arc<dyn Harness> = Arc::new(Plain);
        let limit = Some(Duration::from_millis(50));
        let hanging = case("tests::hangs", |_| Box::pin(hangs()));
        let verdict = run_within(&hanging, &harness, None, limit, false);
        assert!(
            matches!(&verdict, Verdict::Failed(why) if why.contains("did not end")),
            "{verdict:?}"
        );
    }
}
