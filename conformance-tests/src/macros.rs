//! The runner for an ordinary test target: one `#[test]` for each case of the table.

use std::sync::Arc;

use crate::{
    Harness, cases,
    launcher::Launcher,
    runner::{Verdict, run_launching, strict},
    worker,
};

/// Defines one `#[test]` for each case of the suite, from the same table as [`cases`]. Each test runs on
/// its own multi-threaded tokio runtime.
///
/// A test of Rust's own harness cannot report at run time that it does not apply. Name these cases with
/// the reason: they are shown as ignored. Any other case that does not apply fails.
///
/// ```no_run
/// # struct MyHarness;
/// # #[async_trait::async_trait]
/// # impl tenure_conformance::Harness for MyHarness {
/// #     fn name(&self) -> &str { "mine" }
/// #     async fn start(&self) -> Result<std::sync::Arc<dyn tenure_conformance::Env>, tenure_core::error::Error> { unimplemented!() }
/// # }
/// tenure_conformance::conformance_tests! {
///     MyHarness,
///     ignored: { exclusion::processes_never_overlap: "the store exists in one process only" }
/// }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! conformance_tests {
    ($harness:expr $(, ignored: { $($module:ident :: $case:ident : $reason:literal),* $(,)? })? $(,)?) => {
        fn conformance_harness() -> ::std::sync::Arc<dyn $crate::Harness> {
            ::std::sync::Arc::new($harness)
        }

        /// The worker process of cases with several processes.
        #[test]
        #[ignore = "started by cases with several processes"]
        fn conformance_worker() {
            $crate::__private::serve(&conformance_harness());
        }

        $crate::__define_ignored! { ($) $($($module $case $reason)*)? }

        $crate::__each_case! { [$crate::__define_tests] }
    };
}

/// Defines a macro that defines one test, with an arm for each case that does not apply.
#[doc(hidden)]
#[macro_export]
macro_rules! __define_ignored {
    (($d:tt) $($module:ident $case:ident $reason:literal)*) => {
        macro_rules! __tenure_test {
            $(($module $case) => {
                #[test]
                #[ignore = $reason]
                fn $case() {
                    $crate::__private::test(
                        concat!(stringify!($module), "::", stringify!($case)),
                        &super::conformance_harness(),
                        module_path!(),
                    );
                }
            };)*
            ($d module:ident $d case:ident) => {
                #[test]
                fn $d case() {
                    $crate::__private::test(
                        concat!(stringify!($d module), "::", stringify!($d case)),
                        &super::conformance_harness(),
                        module_path!(),
                    );
                }
            };
        }
    };
}

/// Defines a module of tests for each group of cases.
#[doc(hidden)]
#[macro_export]
macro_rules! __define_tests {
    ($($module:ident {
        $($case:ident [$($clause:ident)+] $(needs $need:ident)? $(since $since:literal)? $about:literal;)+
    })+) => {
        $(mod $module {
            $(__tenure_test! { $module $case })+
        })+
    };
}

/// The macro's output calls this function. It is no part of the API.
#[doc(hidden)]
pub fn test(id: &str, harness: &Arc<dyn Harness>, module: &str) {
    let Some(case) = cases().into_iter().find(|case| case.id == id) else {
        fail(&format!("there is no case {id}"));
    };
    // The worker's test is in the parent of the case's module. Test paths do not contain the crate.
    let parents: Vec<_> = module.split("::").skip(1).collect();
    let beside = &parents[..parents.len().saturating_sub(1)];
    let worker = [beside, &["conformance_worker"]].concat().join("::");
    match run_launching(&case, harness, Some(Launcher::test(&worker)), strict()) {
        Verdict::Passed => {}
        Verdict::Failed(text) => fail(&text),
        Verdict::Ignored(reason) => fail(&format!(
            "the case does not apply ({reason}); name it in `ignored: {{ {id}: \"reason\" }}`"
        )),
    }
}

/// The macro's output calls this function. It is no part of the API.
#[doc(hidden)]
pub fn serve(harness: &Arc<dyn Harness>) {
    if worker::serve_if_asked(harness) == Some(std::process::ExitCode::FAILURE) {
        fail("the worker failed");
    }
}

#[expect(clippy::panic, reason = "this is how a test fails")]
fn fail(text: &str) -> ! {
    panic!("{text}")
}
