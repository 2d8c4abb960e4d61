//! Processes that want the same entry of a cache: one refills it, the others wait or are served the
//! old value; one that was paused past its TTL comes back with a value that is no longer the newest.
#![expect(clippy::unwrap_used, reason = "a test")]

use example_support::Program;
use tempfile::TempDir;
use tenure_test_servers::redis::Server;

struct Nodes {
    server: Server,
    directory: TempDir,
}

impl Nodes {
    fn new() -> Self {
        Self {
            server: Server::builder().start().unwrap(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn node(&self, name: &str, more: &[&str]) -> Program {
        let (url, cache) = (self.server.url(), self.cache());
        let mut arguments = vec!["--url", &url, "--cache", &cache, "--node", name];
        arguments.extend(["--ttl", "2s"]);
        arguments.extend(more);
        Program::start(env!("CARGO_BIN_EXE_example-cache-refill"), &arguments)
    }

    fn cache(&self) -> String {
        self.directory.path().join("cache").display().to_string()
    }

    /// Puts a value there that has run out already.
    fn run_out(&self, value: &str) {
        let mut node = self.node("before", &["--fresh", "0"]);
        node.reads(value);
        node.ends(0, "from the origin");
    }

    /// All that is in the cache.
    fn values(&self) -> Vec<String> {
        let db = rusqlite::Connection::open(self.cache()).unwrap();
        let mut rows = db.prepare("SELECT value FROM cache").unwrap();
        let rows = rows.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    }
}

#[test]
fn one_refills_and_the_others_wait_or_are_served_the_old_value() {
    let nodes = Nodes::new();
    nodes.run_out("old");

    let mut first = nodes.node("first", &[]);
    first.says("asks the origin");
    let mut waiting: Vec<_> = ["w1", "w2", "w3"].map(|name| nodes.node(name, &[])).into();
    for node in &mut waiting {
        node.says("waits for the refill");
    }
    nodes
        .node("hasty", &["--stale"])
        .ends(0, "the old value: old");

    first.reads("new");
    first.ends(0, "from the origin: new");
    for node in waiting {
        // Nobody feeds them: had they asked the origin, they would have failed.
        node.ends(0, "from the cache: new");
    }
    nodes.node("later", &[]).ends(0, "from the cache: new");
    assert_eq!(nodes.values(), ["new"]);
}

/// Node a is paused while it asks the origin, node b takes over and refills the entry; then a goes
/// on with the answer that it got. Returns a, which comes to its write.
fn paused_at_the_origin(nodes: &Nodes, more: &[&str]) -> Program {
    nodes.run_out("old");
    let mut a = nodes.node("a", more);
    let first = a.says_number("asks the origin");
    let mut b = nodes.node("b", more);
    b.says("waits for the refill");

    a.pause();
    let second = b.says_number("asks the origin");
    assert!(second > first, "{second} after {first}");
    b.reads("newest");
    b.ends(0, "from the origin: newest");
    assert_eq!(nodes.values(), ["newest"]);

    a.resume();
    a.reads("late");
    a
}

#[test]
fn t1_a_late_refill_is_refused() {
    let nodes = Nodes::new();
    let a = paused_at_the_origin(&nodes, &[]);
    a.ends(79, "the cache has a newer value: newest");
    assert_eq!(nodes.values(), ["newest"]);
}

/// The same again without the token: what is asserted above would not be so by itself.
#[test]
fn without_the_token_a_late_refill_brings_back_what_was_replaced() {
    let nodes = Nodes::new();
    let a = paused_at_the_origin(&nodes, &["--no-fencing"]);
    a.ends(0, "from the origin: late");
    assert_eq!(nodes.values(), ["late"]);
}
