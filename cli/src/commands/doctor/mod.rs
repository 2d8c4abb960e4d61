//! `tenure doctor`: checks the configuration and the store with operations on a temporary lock.

mod doctor_report;
mod mounts;
mod probe;

use std::os::unix::fs::PermissionsExt;

use tenure::{
    Client, Config, Registry,
    capability::{Capabilities, Evidence, TtlScope, WaitMode},
};

use self::doctor_report::{DoctorReport, Mark};
use crate::{
    args::{Global, KILL_AFTER},
    exit::Failure,
    run::check_fits,
    setup::{load, runtime, sources},
};

/// Checks everything, shows each finding, and stops at the first failure.
pub(super) fn run(global: &Global, registry: &Registry) -> Result<(), Failure> {
    let mut report = DoctorReport::new(global.output);
    let outcome = examine(global, registry, &mut report);
    let outcome = outcome.map_err(|failure| report.failed(failure));
    report.close()?;
    outcome
}

fn examine(global: &Global, registry: &Registry, report: &mut DoctorReport) -> Result<(), Failure> {
    let config = load(&sources(global))?;
    let store = config.open(registry)?.info().endpoint;
    report.about(&store, config.namespace.as_str())?;
    configuration(&config, report)?;
    runtime()?.block_on(examine_store(&config, registry, report))
}

async fn examine_store(
    config: &Config,
    registry: &Registry,
    report: &mut DoctorReport,
) -> Result<(), Failure> {
    if let Some(file) = &config.password_file
        && let Ok(about) = std::fs::metadata(file)
        && about.permissions().mode() & 0o027 != 0
    {
        let text = format!(
            "more users than necessary may read or change \"{}\"; run `chmod o-rwx,g-w` on it",
            file.display().to_string().escape_debug()
        );
        report.row("password file", Mark::Warning, &text)?;
    }
    report.begin("reach");
    let client = config.connect(registry).await?;
    report.done("connected and authorised")?;
    let outcome = store(config, &client, report).await;
    client.shutdown(std::time::Duration::from_secs(2)).await;
    outcome
}

fn configuration(config: &Config, report: &mut DoctorReport) -> Result<(), Failure> {
    config.drift_bounds.check(config.ttl)?;
    match check_fits(KILL_AFTER, config) {
        Ok(()) => report.row("configuration", Mark::Ok, "valid"),
        Err(arithmetic) => {
            let text = format!("`tenure run` refuses it: {arithmetic}");
            report.row("configuration", Mark::Warning, &text)
        }
    }
}

async fn store(config: &Config, client: &Client, report: &mut DoctorReport) -> Result<(), Failure> {
    let offered = client.capabilities();
    for (what, text) in declared(config, &offered) {
        report.row(what, Mark::Ok, &text)?;
    }
    if let Some(dir) = client.info().endpoint.strip_prefix("file:")
        && let Some(why) = mounts::hidden_from_others(dir.as_ref())
    {
        let text = format!(
            "other processes of this host may not see this directory, and then take the same locks \
             elsewhere: {why}"
        );
        report.row("seen by", Mark::Warning, &text)?;
    }
    probe::run(config, client, report).await
}

/// Describes the guarantees of the store for a user who has to choose one.
fn declared(config: &Config, offered: &Capabilities) -> Vec<(&'static str, String)> {
    use tenure::capability::Durability;
    let show = humantime::format_duration;
    let survives = match offered.durability {
        Durability::Volatile => "nothing: a restart of the store may lose who holds a lock",
        Durability::Local => "a restart of the store",
        Durability::Replicated => "the loss of one server, but a failover may lose the last grants",
        Durability::Consensus => "the loss of a minority of servers at any moment",
        _ => "more than this build knows of",
    };
    let woken = match offered.wait {
        WaitMode::Push => "are notified by the store".to_owned(),
        WaitMode::Poll { every } => format!("poll every {}", show(every)),
        _ => "are woken by a method that this build does not know".to_owned(),
    };
    let evicted = match offered.loss.evicted {
        Evidence::Push => "at once",
        _ => "with the next renewal",
    };
    let range = &offered.ttl;
    let shared = match range.scope {
        TtlScope::Pooled => "; the locks of a client share one session, and are lost together",
        _ => "",
    };
    let takeover = offered.takeover.of(config.ttl, config.ttl);
    let modes = match (offered.modes.shared, offered.modes.permits) {
        (true, true) => "exclusive, shared, and with permits",
        (true, false) => "exclusive and shared; no permits",
        (false, true) => "exclusive, and with permits; not shared",
        (false, false) => "exclusive alone",
    };
    vec![
        ("modes", modes.to_owned()),
        ("survives", format!("{} ({survives})", offered.durability)),
        (
            "waiters",
            format!("{woken}; an eviction becomes known {evicted}"),
        ),
        (
            "ttl",
            format!(
                "{}, of {} to {} in steps of {}{shared}",
                show(config.ttl),
                show(range.min),
                show(range.max),
                show(range.granularity),
            ),
        ),
        (
            "takeover",
            format!(
                "a dead holder's lock is granted again within {}",
                show(takeover)
            ),
        ),
    ]
}
