//! The size of what each store keeps.

use std::{fs, path::Path};

use tenure_test_servers::{etcd, redis, zookeeper};

use crate::growth::Figure;

/// A directory of the file store.
pub(crate) fn of_directory(directory: &Path) -> Vec<Figure> {
    let (files, bytes) = files_below(directory);
    vec![
        Figure::number("files", files as f64),
        Figure::bytes("in files", bytes as f64),
    ]
}

/// Returns the number of files and directories below a directory, and the bytes of the files.
fn files_below(directory: &Path) -> (u64, u64) {
    let mut sum = (0, 0);
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        let (files, bytes) = if metadata.is_dir() {
            files_below(&entry.path())
        } else {
            (0, metadata.len())
        };
        sum = (sum.0 + files + 1, sum.1 + bytes);
    }
    sum
}

pub(crate) fn of_redis(server: &redis::Server) -> Vec<Figure> {
    let info = |field| number(server.info(field).unwrap());
    let keys = server.text(&["KEYS", "*"]).unwrap();
    let mut figures = keys_and_fences(&keys, ":fenced:");
    let connections = info("connected_clients");
    figures.push(Figure::number("connections of the server", connections));
    figures.push(Figure::bytes("of the server", info("used_memory")));
    figures
}

/// All servers have the same data.
pub(crate) fn of_etcd(servers: &[etcd::Server]) -> Vec<Figure> {
    let server = &servers[0];
    let keys = server.etcdctl(&["get", "", "--prefix", "--keys-only"]);
    let mut figures = keys_and_fences(&keys.unwrap(), "/%fenced/");
    // The first line is a heading.
    let leases = server.etcdctl(&["lease", "list"]).unwrap().lines().count() - 1;
    figures.push(Figure::number("leases", leases as f64));
    // The database keeps old versions of keys until the operator compacts it.
    let size = server.metric("etcd_mvcc_db_total_size_in_bytes").unwrap();
    figures.push(Figure::bytes("in the database", size.unwrap()).that_grows_by_design());
    figures
}

/// All servers have the same nodes, but a watch and a connection belong to one server.
pub(crate) fn of_zookeeper(servers: &[zookeeper::Server]) -> Vec<Figure> {
    let of = |server: &zookeeper::Server, name| number(server.metric(name).unwrap());
    let sum = |name| servers.iter().map(|server| of(server, name)).sum();
    let connections = sum("zk_num_alive_connections");
    vec![
        Figure::number("znodes", of(&servers[0], "zk_znode_count")),
        Figure::number("watches", sum("zk_watch_count")),
        Figure::number("connections of the servers", connections),
    ]
}

/// Counts the keys in a list with a line for each. A cancelled attempt leaves a fence for ten minutes (Redis)
/// or until its lease ends (etcd), so the number of fences grows for a while.
fn keys_and_fences(list: &str, fence: &str) -> Vec<Figure> {
    let lines = list.lines().filter(|line| !line.is_empty());
    let (fences, keys): (Vec<_>, Vec<_>) = lines.partition(|key| key.contains(fence));
    vec![
        Figure::number("keys", keys.len() as f64),
        Figure::number("fences", fences.len() as f64).that_grows_by_design(),
    ]
}

fn number(text: Option<String>) -> f64 {
    text.unwrap().trim().parse().unwrap()
}
