//! Many processes increment a counter under a lock: no increment is lost, and tokens rise with it.

use std::io::Write;

use crate::support::{CONDITION_TIMEOUT, Running, Sandbox, now};

const PROCESSES: u64 = 16;

/// Returns the increments of each process. `make more` sets 200, which takes half a minute on a quiet
/// machine.
fn rounds() -> u64 {
    let rounds = std::env::var("TENURE_TEST_ROUNDS");
    rounds.map_or(40, |rounds| rounds.parse().unwrap())
}

/// One of the processes; the test below starts this binary again for each of them.
#[test]
#[ignore = "part of another test, which starts it"]
fn counting_process() {
    let Some(directory) = std::env::var_os("COUNTER_DIRECTORY").map(std::path::PathBuf::from)
    else {
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
        for _ in 0..rounds() {
            let guard = lock.acquire().await.unwrap();
            let count: u64 = std::fs::read_to_string(directory.join("count"))
                .unwrap()
                .parse()
                .unwrap();
            let token = guard.check().unwrap();
            let mut log = std::fs::File::options()
                .append(true)
                .open(directory.join("log"))
                .unwrap();
            writeln!(log, "{} {token}", count + 1).unwrap();
            std::fs::write(directory.join("count"), (count + 1).to_string()).unwrap();
            guard.check().unwrap();
            let _ = guard.release().await;
        }
    });
}

#[test]
fn x1_t1_sixteen_processes_count_with_tokens_in_order() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path("count"), "0").unwrap();
    std::fs::write(sandbox.path("log"), "").unwrap();
    let begin = now();
    let processes: Vec<_> = (0..PROCESSES)
        .map(|_| {
            let mut command = std::process::Command::new(std::env::current_exe().unwrap());
            command
                .args(["--exact", "--ignored", "counter::counting_process"])
                .envs(sandbox.environment())
                .env("COUNTER_DIRECTORY", sandbox.path("."));
            Running::start(command)
        })
        .collect();
    for process in processes {
        process
            .finish_within(CONDITION_TIMEOUT * 15)
            .assert_succeeded();
    }
    eprintln!("took {:?}", now().since(begin));
    assert_counted(&sandbox, PROCESSES * rounds());
}

#[test]
fn x1_t1_shell_loops_count_with_tokens_in_order() {
    // The same with `tenure run`.
    const LOOPS: u64 = 8;
    const RUNS_PER_LOOP: u64 = 15;
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path("count"), "0").unwrap();
    std::fs::write(sandbox.path("log"), "").unwrap();
    let tenure = env!("CARGO_BIN_EXE_tenure");
    let work = "n=$(($(cat count) + 1)); echo $n $TENURE_TOKEN >> log; printf %s $n > count";
    let script = format!(
        "i=0; while [ $i -lt {RUNS_PER_LOOP} ]; do {tenure} run -q counter -c '{work}' || exit 1; i=$((i+1)); done"
    );
    let loops: Vec<_> = (0..LOOPS)
        .map(|_| {
            let mut command = std::process::Command::new("sh");
            command.args(["-c", &script]).current_dir(sandbox.path("."));
            command.envs(sandbox.environment());
            Running::start(command)
        })
        .collect();
    for process in loops {
        process
            .finish_within(CONDITION_TIMEOUT * 3)
            .assert_succeeded();
    }
    assert_counted(&sandbox, LOOPS * RUNS_PER_LOOP);
}

fn assert_counted(sandbox: &Sandbox, expected: u64) {
    assert_eq!(sandbox.read("count").unwrap(), expected.to_string());
    let log = sandbox.read("log").unwrap();
    let mut last = 0;
    for (at, line) in log.lines().enumerate() {
        let (count, token) = line.split_once(' ').unwrap();
        assert_eq!(count.parse::<usize>().unwrap(), at + 1);
        let token: u64 = token.parse().unwrap();
        assert!(token > last, "line {}: token {token} after {last}", at + 1);
        last = token;
    }
    assert_eq!(u64::try_from(log.lines().count()).unwrap(), expected);
}
