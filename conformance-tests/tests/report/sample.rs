//! Sample reports with every case of the table, a failure, and malicious names and texts.

use serde_json::{Value, json};
use tenure_conformance::{
    SUITE_VERSION, cases,
    report::{self, Report},
};

/// Text with markup, and with characters that XML cannot represent.
pub(crate) const HOSTILE: &str = "x</pre><script>document.title='owned'</script><img src=http://evil.test/i> &amp; ]]> \"'\u{1b}[2J\u{0}\u{202e}";

pub(crate) const FAILED: &str = "token::rises_over_release";
pub(crate) const IGNORED: &str = "secrets::show_nowhere";

/// A report of the given backend.
pub(crate) fn report(backend: &str) -> Value {
    let cases: Vec<Value> = cases()
        .iter()
        .map(|case| {
            let (verdict, reason) = match case.id {
                FAILED => (
                    "failed",
                    json!(format!("clause T1 is broken: {HOSTILE}\nand more of it")),
                ),
                IGNORED => ("ignored", json!(HOSTILE)),
                _ => ("passed", Value::Null),
            };
            json!({
                "id": case.id, "clauses": case.clauses, "needs": null, "about": case.about,
                "verdict": verdict, "reason": reason, "duration_ms": 1234,
            })
        })
        .collect();
    json!({
        "schema": report::SCHEMA, "suite": SUITE_VERSION, "version": "0.1.0", "backend": backend,
        "scheme": "sample", "endpoint": HOSTILE, "capabilities": null,
        "machine": {"os": "linux", "arch": "x86_64", "cpus": 2},
        "started": "2026-01-02T03:04:05Z", "duration_ms": 4321, "jobs": 6, "filter": null,
        "strict": false, "cases": cases, "left": [HOSTILE],
        "stress": {"history": history(), "violations": [], "error": null, "duration_ms": 3000},
    })
}

/// A history of three workers, one of which loses its lock during a fault.
fn history() -> Value {
    let released = |at: u64| json!({"released": {"asked": at, "held": true}});
    let grant = |worker: u32, token: u64, from: u64, until: u64, ending: Value| {
        json!({
            "lock": format!("a {HOSTILE}"), "worker": worker, "token": token,
            "held_from": from, "held_until": until, "ending": ending,
        })
    };
    let lost =
        json!({"lost": {"told": 1_500_000, "due": 1_500_000, "reason": HOSTILE, "afterwards": []}});
    json!({
        "grants": [
            grant(0, 11, 100_000, 600_000, released(600_100)),
            grant(1, 12, 650_000, 1_490_000, lost),
            grant(2, 1_764_000_123_456_789, 1_600_000, 2_900_000, released(2_900_100)),
        ],
        "waits": [{
            "lock": format!("a {HOSTILE}"), "worker": 2, "asked": 200_000, "ended": 1_600_000,
            "token": 1_764_000_123_456_789_u64, "error": null,
        }],
        "writes": [],
        "faults": [{"what": format!("cut off {HOSTILE}"), "from": 1_000_000, "until": 1_500_000}],
    })
}

/// The reports as a run creates them.
pub(crate) fn read(values: &[Value]) -> Vec<Report> {
    let lines: Vec<String> = values.iter().map(Value::to_string).collect();
    report::json::read(&lines.join("\n")).unwrap()
}
