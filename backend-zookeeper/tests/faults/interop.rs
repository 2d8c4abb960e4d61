//! Programs in other languages on the same lock: kazoo's `Lock`, and Curator's `InterProcessMutex` and
//! `InterProcessReadWriteLock`.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use tenure_core::{Acquisition, Client, Guard, Lock, Release, mode::Mode};
use tokio::task::JoinHandle;

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

fn writer(client: &Client) -> Lock {
    client.rw_lock(LOCK).unwrap().write()
}

fn reader(client: &Client) -> Lock {
    client.rw_lock(LOCK).unwrap().read()
}

fn start(lock: Lock) -> JoinHandle<Guard> {
    tokio::spawn(async move { lock.acquire().await.unwrap() })
}

async fn take(lock: Lock) -> Guard {
    granted("acquire", SOON, start(lock)).await
}

/// Curator waits for this guard, whatever it asks for, and then excludes `second`.
async fn curator_waits(
    curator: &mut Contender,
    ours: &Client,
    first: Guard,
    order: &str,
    second: Lock,
) {
    curator.order(order);
    waiting(ours, LOCK, 1).await;
    let second = start(second);
    waiting(ours, LOCK, 2).await;
    curator.says_nothing();
    assert!(matches!(first.release().await, Release::Released));
    curator.expect("held");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!second.is_finished(), "{order}: two hold it");
    curator.order("release");
    curator.expect("released");
    let second = granted(order, SOON, second).await;
    assert!(matches!(second.release().await, Release::Released));
}

#[tokio::test(flavor = "multi_thread")]
async fn m1_curators_reader_writer_lock_and_ours_exclude_each_other() {
    let _room = room().await;
    let server = server();
    let ours = client(&server.url()).await;
    let mut curator = curator(&server.address());
    // This library arrives first and last: a writer and a writer, a writer and a reader, a reader and a
    // writer.
    for (first, order, second) in [
        (writer(&ours), "write", writer(&ours)),
        (writer(&ours), "write", reader(&ours)),
        (writer(&ours), "read", writer(&ours)),
        (reader(&ours), "write", reader(&ours)),
        (reader(&ours), "write", writer(&ours)),
    ] {
        let first = take(first).await;
        curator_waits(&mut curator, &ours, first, order, second).await;
    }
    // Curator arrives first.
    for (order, lock) in [
        ("write", writer(&ours)),
        ("write", reader(&ours)),
        ("read", writer(&ours)),
    ] {
        curator.order(order);
        curator.expect("held");
        let tried = lock.try_acquire().await.unwrap();
        let Acquisition::Busy(holder) = tried else {
            panic!("{order}: two hold it: {tried:?}");
        };
        assert_eq!(holder.attempt, None);
        let waiter = start(lock);
        waiting(&ours, LOCK, 1).await;
        curator.order("release");
        curator.expect("released");
        let guard = granted(order, SOON, waiter).await;
        assert!(matches!(guard.release().await, Release::Released));
    }
    // Readers share it, whichever arrives first.
    let first = take(reader(&ours)).await;
    curator.order("read");
    curator.expect("held");
    let second = take(reader(&ours)).await;
    assert_eq!(second.floor(), first.token());
    let state = ours.inspect(&name(LOCK)).await.unwrap();
    let modes: Vec<Mode> = state.holders().map(|holder| holder.mode).collect();
    assert_eq!(modes, [Mode::Shared; 3]);
    for guard in [first, second] {
        assert!(matches!(guard.release().await, Release::Released));
    }
    curator.order("release");
    curator.expect("released");
}

#[tokio::test(flavor = "multi_thread")]
async fn m4_a_downgrade_admits_curators_readers_and_no_writer() {
    let _room = room().await;
    let server = server();
    let ours = client(&server.url()).await;
    let mut curator = curator(&server.address());
    let writing = take(writer(&ours)).await;
    curator.order("read");
    waiting(&ours, LOCK, 1).await;
    curator.says_nothing();
    let reading = writing.downgrade().await.unwrap();
    curator.expect("held");
    curator.order("release");
    curator.expect("released");
    curator.order("write");
    waiting(&ours, LOCK, 1).await;
    curator.says_nothing();
    assert!(matches!(reading.release().await, Release::Released));
    curator.expect("held");
    curator.order("release");
    curator.expect("released");
}
