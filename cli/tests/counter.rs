//! Many processes take turns: nothing is lost, and tokens rise in the order of what they protect.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may"
)]

mod common;

use std::io::Write;

use common::{PATIENCE, Place, Running, now};

const PROCESSES: u64 = 16;
const ROUNDS: u64 = 200;

/// What each of the processes does: this test binary, started again.
#[test]
#[ignore = "a part of the test below, which starts it"]
fn a_process_that_counts() {
    let Some(place) = std::env::var_os("COUNTER_PLACE").map(std::path::PathBuf::from) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let config = tenure::Config::load(&tenure::Sources::new().environment()).unwrap();
        let client = config.connect(&tenure::default_registry()).await.unwrap();
        let lock = client.lock("counter").unwrap();
        for _ in 0..ROUNDS {
            let guard = lock.acquire().await.unwrap();
            let count: u64 = std::fs::read_to_string(place.join("count"))
                .unwrap()
                .parse()
                .unwrap();
            let token = guard.check().unwrap();
            let mut log = std::fs::File::options()
                .append(true)
                .open(place.join("log"))
                .unwrap();
            writeln!(log, "{} {token}", count + 1).unwrap();
            std::fs::write(place.join("count"), (count + 1).to_string()).unwrap();
            guard.check().unwrap();
            let _ = guard.release().await;
        }
    });
}

#[test]
fn x1_t1_sixteen_processes_count_to_3200_with_tokens_in_order() {
    let place = Place::new();
    std::fs::write(place.path("count"), "0").unwrap();
    std::fs::write(place.path("log"), "").unwrap();
    let begin = now();
    let processes: Vec<_> = (0..PROCESSES)
        .map(|_| {
            let mut command = std::process::Command::new(std::env::current_exe().unwrap());
            command
                .args(["--exact", "--ignored", "a_process_that_counts"])
                .envs(place.environment())
                .env("COUNTER_PLACE", place.path("."));
            Running::start(command)
        })
        .collect();
    for process in processes {
        // Half a minute on a quiet machine; a busy one must not look like a lock that is stuck.
        process.finish_within(PATIENCE * 15).succeeded();
    }
    eprintln!("took {:?}", now().since(begin));
    check(&place, PROCESSES * ROUNDS);
}

#[test]
fn x1_t1_shell_loops_count_with_tokens_in_order() {
    // The same through the command, which is slower for the processes that it starts.
    const LOOPS: u64 = 8;
    const TURNS: u64 = 15;
    let place = Place::new();
    std::fs::write(place.path("count"), "0").unwrap();
    std::fs::write(place.path("log"), "").unwrap();
    let tenure = env!("CARGO_BIN_EXE_tenure");
    let work = "n=$(($(cat count) + 1)); echo $n $TENURE_TOKEN >> log; printf %s $n > count";
    let script = format!(
        "i=0; while [ $i -lt {TURNS} ]; do {tenure} run -q counter -c '{work}' || exit 1; i=$((i+1)); done"
    );
    let loops: Vec<_> = (0..LOOPS)
        .map(|_| {
            let mut command = std::process::Command::new("sh");
            command.args(["-c", &script]).current_dir(place.path("."));
            command.envs(place.environment());
            Running::start(command)
        })
        .collect();
    for process in loops {
        process.finish_within(PATIENCE * 3).succeeded();
    }
    check(&place, LOOPS * TURNS);
}

fn check(place: &Place, wanted: u64) {
    assert_eq!(place.read("count").unwrap(), wanted.to_string());
    let log = place.read("log").unwrap();
    let mut last = 0;
    for (at, line) in log.lines().enumerate() {
        let (count, token) = line.split_once(' ').unwrap();
        assert_eq!(count.parse::<usize>().unwrap(), at + 1);
        let token: u64 = token.parse().unwrap();
        assert!(token > last, "line {}: token {token} after {last}", at + 1);
        last = token;
    }
    assert_eq!(u64::try_from(log.lines().count()).unwrap(), wanted);
}
