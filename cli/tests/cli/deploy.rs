//! The files of `examples/deploy`.

use std::{fs, path::Path, process::Command};

use crate::support::Sandbox;

/// systemd finds no fault in the units. It reports unknown settings on stderr, and succeeds all the same.
#[test]
fn systemd_accepts_the_units() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/deploy/systemd");
    let sandbox = Sandbox::new();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]);
    for name in ["nightly-report.service", "nightly-report.timer"] {
        let text = fs::read_to_string(units.join(name)).unwrap();
        // The program has to exist.
        let text = text.replace("/usr/bin/tenure", env!("CARGO_BIN_EXE_tenure"));
        fs::write(sandbox.path(name), text).unwrap();
        verify.arg(sandbox.path(name));
    }
    // Not every machine that runs the tests has systemd.
    let Ok(output) = verify.output() else {
        eprintln!("systemd-analyze is missing, so the units are not checked");
        return;
    };
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
