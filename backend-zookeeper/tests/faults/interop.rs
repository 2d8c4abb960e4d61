//! Programs in other languages on the same lock: kazoo's `Lock` and Curator's `InterProcessMutex`.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use tenure_core::{Acquisition, Client, Release};

use crate::common::{SOON, acquire, client, granted, hold, name, room, server, waiting};

/// A Java program is compiled first, which takes long on a busy machine.
const START: Duration = Duration::from_secs(60);
const LOCK: &str = "shared/with others";
const PATH: &str = "/default/shared%2Fwith%20others";

/// Another program that takes the lock on command.
struct Contender {
    child: Child,
    orders: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Contender {
    fn start(mut command: Command, install: &str) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}; {install}"));
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let orders = child.stdin.take();
        let contender = Self {
            child,
            orders,
            lines,
        };
        let ready = contender.lines.recv_timeout(START);
        assert_eq!(ready.as_deref(), Ok("ready"), "{command:?}: {install}");
        contender
    }

    fn order(&mut self, what: &str) {
        let orders = self.orders.as_mut().unwrap();
        writeln!(orders, "{what}").unwrap();
        orders.flush().unwrap();
    }

    fn expect(&self, what: &str) {
        assert_eq!(self.lines.recv_timeout(SOON).as_deref(), Ok(what));
    }

    fn says_nothing(&self) {
        let said = self.lines.recv_timeout(Duration::from_millis(300));
        assert!(said.is_err(), "it said {said:?}");
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/faults/programs")
        .join(file)
}

fn kazoo(address: &str) -> Contender {
    // Only the distribution's Python has the distribution's packages.
    let python = std::env::var("TENURE_PYTHON").unwrap_or_else(|_| "/usr/bin/python3".to_owned());
    let mut command = Command::new(python);
    command.arg(program("contender.py")).args([address, PATH]);
    Contender::start(
        command,
        "install kazoo (Debian: apt-get install python3-kazoo), or name a Python that has it in \
         TENURE_PYTHON",
    )
}

fn curator(address: &str) -> Contender {
    let archives = [
        "curator-recipes.jar",
        "curator-framework.jar",
        "curator-client.jar",
        "slf4j-nop.jar",
    ];
    let class_path: Vec<String> = archives
        .iter()
        .map(|archive| format!("/usr/share/java/{archive}"))
        .collect();
    let mut command = Command::new("java");
    command
        .arg("-XX:TieredStopAtLevel=1")
        .args(["-cp", &class_path.join(":")])
        .arg(program("Contender.java"))
        .args([address, PATH]);
    Contender::start(
        command,
        "install Curator and a JDK (Debian: apt-get install libcurator-recipes-java default-jdk)",
    )
}

/// Both orders of arrival, and then alternating.
async fn takes_turns(mut other: Contender, ours: &Client) {
    // This library arrives first.
    let first = hold(ours, LOCK).await;
    other.order("acquire");
    waiting(ours, LOCK, 1).await;
    let second = acquire(ours, LOCK);
    waiting(ours, LOCK, 2).await;
    other.says_nothing();
    assert!(matches!(first.release().await, Release::Released));
    other.expect("held");
    let state = ours.inspect(&name(LOCK)).await.unwrap();
    let holder = state.holder.unwrap();
    assert_eq!((holder.attempt, holder.owner), (None, None));
    assert!(holder.token.unwrap() > first.token());
    assert_eq!(state.queue.len(), 1);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!second.is_finished(), "two hold it");
    other.order("release");
    other.expect("released");
    let second = granted("after a foreign holder", SOON, second).await;
    assert!(second.token() > holder.token.unwrap());
    assert!(matches!(second.release().await, Release::Released));

    // The other program arrives first.
    other.order("acquire");
    other.expect("held");
    let tried = ours.lock(LOCK).unwrap().try_acquire().await.unwrap();
    let Acquisition::Busy(holder) = tried else {
        panic!("two hold it: {tried:?}");
    };
    assert_eq!(holder.attempt, None);
    let waiter = acquire(ours, LOCK);
    waiting(ours, LOCK, 1).await;
    other.order("release");
    other.expect("released");
    let guard = granted("after a foreign holder", SOON, waiter).await;
    assert!(matches!(guard.release().await, Release::Released));
}

#[tokio::test(flavor = "multi_thread")]
async fn w1_kazoo_and_tenure_take_turns() {
    let _room = room().await;
    let server = server();
    let ours = client(&server.url()).await;
    takes_turns(kazoo(&server.address()), &ours).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn w1_curator_and_tenure_take_turns() {
    let _room = room().await;
    let server = server();
    let ours = client(&server.url()).await;
    takes_turns(curator(&server.address()), &ours).await;
}
