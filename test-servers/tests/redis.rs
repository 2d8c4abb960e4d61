//! What the Redis servers of this crate do when they are started, broken and left behind.

use std::time::{Duration, Instant};
use tenure_test_servers::redis::{Cluster, Sentinel, Server};

#[test]
fn smoke() {
    let t = Instant::now();
    let s = Server::builder().start().unwrap();
    eprintln!("single {:?}", t.elapsed());
    s.command(&["SET", "a", "b"]).unwrap();
    let t = Instant::now();
    s.restart().unwrap();
    eprintln!("restart {:?}", t.elapsed());
    assert_eq!(s.text(&["GET", "a"]).unwrap(), "");
    let t = Instant::now();
    let _r = Server::builder().replica_of(&s).start().unwrap();
    eprintln!("replica {:?}", t.elapsed());
    let t = Instant::now();
    let _r = Server::builder()
        .tls()
        .acl_user("u", "p", "~* +@all")
        .start()
        .unwrap();
    eprintln!("tls {:?}", t.elapsed());
    for n in [1, 3] {
        let t = Instant::now();
        let s = Sentinel::builder().sentinels(n).start().unwrap();
        eprintln!("sentinel {n} {:?}", t.elapsed());
        let t = Instant::now();
        s.failover().unwrap();
        eprintln!("failover {n} {:?}", t.elapsed());
        s.wait_until_settled().unwrap();
        let t = Instant::now();
        s.kill_master().unwrap();
        eprintln!("kill {n} {:?}", t.elapsed());
    }
    let t = Instant::now();
    let c = Cluster::builder().start().unwrap();
    eprintln!("cluster {:?}", t.elapsed());
    eprintln!("{}", c.url());
    let t = Instant::now();
    let c = Cluster::builder().replicas(1).start().unwrap();
    eprintln!("cluster + replicas {:?}", t.elapsed());
    c.slot_move(5, &c.nodes()[1]).unwrap().complete().unwrap();
    let _ = Duration::ZERO;
}
