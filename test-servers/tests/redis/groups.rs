//! Groups with sentinels, and clusters.

use std::{thread, time::Duration};

use tenure_test_servers::redis::{Cluster, Sentinel, Server, Value};

use crate::QUIET;

#[test]
fn failover_by_command_makes_the_replica_the_master() {
    let group = Sentinel::builder().name("locks").start().unwrap();
    assert_eq!(
        group.url(),
        format!("redis+sentinel://{}/locks", group.sentinels()[0].address())
    );
    let old = group.master().unwrap();
    old.command(&["SET", "key", "value"]).unwrap();
    group.wait_until_in_step().unwrap();
    let new = group.failover().unwrap();
    assert_ne!(new.port(), old.port());
    assert_eq!(group.master().unwrap().port(), new.port());
    new.command(&["SET", "after", "failover"]).unwrap();
    assert_eq!(new.text(&["GET", "key"]).unwrap(), "value");
    // The old master becomes a replica of the new master. Then another failover can succeed.
    group.wait_until_settled().unwrap();
    assert_eq!(old.info("role").unwrap().as_deref(), Some("slave"));
    assert_eq!(group.failover().unwrap().port(), old.port());
}

#[test]
fn three_sentinels_elect_when_the_master_is_killed_and_take_it_back_as_a_replica() {
    let group = Sentinel::builder()
        .sentinels(3)
        .servers(Server::builder().acl_user("app", "secret", "~* &* +@all"))
        .start()
        .unwrap();
    assert_eq!(group.url().matches("127.0.0.1:").count(), 3);
    let old = group.master().unwrap();
    let new = group.kill_master().unwrap();
    group.set_down_after(Duration::from_secs(60)).unwrap();
    for sentinel in group.sentinels() {
        let known = sentinel
            .text(&["SENTINEL", "MASTER", group.name()])
            .unwrap();
        let mut lines = known
            .lines()
            .skip_while(|line| *line != "down-after-milliseconds");
        assert_eq!(lines.nth(1), Some("60000"), "{known}");
    }
    assert_ne!(new.port(), old.port());
    assert_eq!(new.info("role").unwrap().as_deref(), Some("master"));
    for sentinel in group.sentinels() {
        let named = sentinel.text(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", group.name()]);
        assert_eq!(named.unwrap(), format!("127.0.0.1\n{}", new.port()));
    }
    old.restart().unwrap();
    group.wait_until_settled().unwrap();
    let replicas = group.replicas().unwrap();
    assert_eq!(replicas.len(), 1);
    assert_eq!(replicas[0].info("role").unwrap().as_deref(), Some("slave"));
}

#[test]
fn without_a_failover_the_master_stays() {
    let group = Sentinel::builder().replicas(2).start().unwrap();
    let master = group.master().unwrap().port();
    assert_eq!(master, group.servers()[0].port());
    assert_eq!(group.replicas().unwrap().len(), 2);
    thread::sleep(QUIET);
    assert_eq!(group.master().unwrap().port(), master);
}

#[test]
fn cluster_serves_every_slot_from_one_of_its_masters() {
    let cluster = Cluster::builder().start().unwrap();
    assert_eq!(cluster.nodes().len(), 3);
    let addresses: Vec<String> = cluster.nodes().iter().map(Server::address).collect();
    assert_eq!(
        cluster.url(),
        format!("redis+cluster://{}", addresses.join(","))
    );
    let owner = |slot| cluster.owner_of_slot(slot).unwrap().port();
    let owners = [owner(0), owner(8_000), owner(16_383)];
    let ports: Vec<u16> = cluster.nodes().iter().map(Server::port).collect();
    assert_eq!(owners.to_vec(), ports);

    let slot = cluster.slot_of("{tag}:key").unwrap();
    assert_eq!(slot, cluster.slot_of("tag").unwrap());
    let owner = cluster.owner_of_slot(slot).unwrap();
    for node in cluster.nodes() {
        let set = node.command(&["SET", "{tag}:key", "value"]);
        if node.port() == owner.port() {
            set.unwrap();
        } else {
            let moved = set.unwrap_err().to_string();
            assert!(moved.to_lowercase().contains("moved"), "{moved}");
            assert!(moved.contains(&owner.address()), "{moved}");
        }
    }
}

#[test]
fn migrating_slot_replies_ask_and_then_moved() {
    let cluster = Cluster::builder()
        .nodes(Server::builder().acl_user("app", "secret", "~* &* +@all"))
        .start()
        .unwrap();
    let slot = cluster.slot_of("tag").unwrap();
    let source = cluster.owner_of_slot(slot).unwrap();
    let target = cluster
        .nodes()
        .iter()
        .find(|node| node.port() != source.port());
    let target = target.unwrap();
    for number in 0..10 {
        let key = format!("{{tag}}:{number}");
        source.command(&["SET", &key, "value"]).unwrap();
    }
    let step = cluster.slot_move(slot, target).unwrap();
    step.begin().unwrap();
    assert_eq!(step.migrate_keys(4).unwrap(), 4);
    // During the move, the source serves the keys that it has and redirects for the others.
    let (mut here, mut there) = (0, 0);
    for number in 0..10 {
        match source.command(&["GET", &format!("{{tag}}:{number}")]) {
            Ok(value) => {
                assert_eq!(value, Value::BulkString(b"value".to_vec()));
                here += 1;
            }
            Err(error) => {
                let error = error.to_string();
                assert!(error.to_lowercase().contains("ask"), "{error}");
                assert!(error.contains(&target.address()), "{error}");
                there += 1;
            }
        }
    }
    assert_eq!((here, there), (6, 4));
    assert_eq!(cluster.owner_of_slot(slot).unwrap().port(), source.port());
    step.finish().unwrap_err();

    while step.migrate_keys(5).unwrap() > 0 {}
    step.finish().unwrap();
    let moved = source.command(&["GET", "{tag}:1"]).unwrap_err().to_string();
    assert!(moved.to_lowercase().contains("moved"), "{moved}");
    assert!(moved.contains(&target.address()), "{moved}");
    assert_eq!(target.text(&["GET", "{tag}:1"]).unwrap(), "value");
    assert_eq!(cluster.owner_of_slot(slot).unwrap().port(), target.port());
    cluster.slot_move(slot, target).unwrap_err();
    cluster.slot_move(slot, source).unwrap().complete().unwrap();
    assert_eq!(source.text(&["GET", "{tag}:9"]).unwrap(), "value");
}

#[test]
fn restarted_node_rejoins_a_cluster_with_replicas() {
    let cluster = Cluster::builder().replicas(1).start().unwrap();
    assert_eq!((cluster.nodes().len(), cluster.masters().len()), (6, 3));
    for node in &cluster.nodes()[3..] {
        assert_eq!(node.info("role").unwrap().as_deref(), Some("slave"));
    }
    let replica = &cluster.nodes()[3];
    replica.restart().unwrap();
    cluster.wait_until_serving().unwrap();
    assert_eq!(replica.info("role").unwrap().as_deref(), Some("slave"));
}

#[test]
fn isolated_master_serves_its_clients_until_it_follows_the_new_one() {
    let group = Sentinel::builder().replicas(2).links().start().unwrap();
    let old = group.master().unwrap();
    let new = group.isolate_master().unwrap();
    assert_ne!(new.port(), old.port());
    // It does not know of its successor.
    assert_eq!(old.info("role").unwrap().as_deref(), Some("master"));
    old.command(&["SET", "key", "old"]).unwrap();
    new.command(&["SET", "key", "new"]).unwrap();

    group.links().unwrap().heal();
    group.wait_until_settled().unwrap();
    group.wait_until_in_step().unwrap();
    assert_eq!(old.info("role").unwrap().as_deref(), Some("slave"));
    assert_eq!(old.text(&["GET", "key"]).unwrap(), "new");
}
