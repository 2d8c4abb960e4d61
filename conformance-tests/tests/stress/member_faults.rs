//! Faults of the members of a cluster of three.

use std::{thread::sleep, time::Duration};

use tenure_conformance::history::Recorder;
use tenure_test_servers::cluster::{Cluster, ClusterKind};

use crate::faulted_run::random_below;

/// The time limit for the recovery of a cluster.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(60);
/// The interval between two faults.
const FAULT_INTERVAL: Duration = Duration::from_millis(1_500);

/// The number of kinds of faults.
const KINDS: usize = 7;

/// Injects this number of different faults, and waits after each one until the cluster has recovered. The
/// cluster needs links.
pub(crate) fn inject<K: ClusterKind>(
    cluster: &Cluster<K>,
    recorder: &Recorder,
    ttl: Duration,
    times: usize,
) {
    for number in 0..times {
        let member = random_below(3);
        let leader = cluster.leader().unwrap_or(member);
        let member_of = |index: usize| cluster.server(index);
        let moment = Duration::from_millis(300 + random_below(1_500) as u64);
        let way = if times == 1 {
            random_below(KINDS)
        } else {
            number % KINDS
        };
        let mut fault = match way {
            0 => {
                let fault = recorder.fault(format!("member {member} killed and restarted"));
                member_of(member).kill();
                sleep(moment);
                member_of(member).restart().unwrap();
                fault
            }
            1 => {
                let fault = recorder.fault(format!("the leader, {leader}, stopped past the TTL"));
                member_of(leader).pause().unwrap();
                sleep(ttl + moment);
                member_of(leader).resume().unwrap();
                fault
            }
            2 => {
                let fault = recorder.fault(format!("the leader, {leader}, killed and restarted"));
                member_of(leader).kill();
                sleep(moment);
                member_of(leader).restart().unwrap();
                fault
            }
            3 => {
                let other = (member + 1) % 3;
                let fault = recorder.fault(format!("members {member} and {other} killed"));
                member_of(member).kill();
                member_of(other).kill();
                sleep(moment);
                member_of(member).restart().unwrap();
                member_of(other).restart().unwrap();
                fault
            }
            4 => {
                let fault = recorder.fault(format!("the leader, {leader}, cut off past the TTL"));
                cluster.links().unwrap().isolate(leader);
                sleep(ttl + moment);
                cluster.links().unwrap().heal();
                fault
            }
            5 => {
                let fault =
                    recorder.fault(format!("the leader, {leader}, not heard by the others"));
                for step in [1, 2] {
                    cluster.links().unwrap().cut(leader, (leader + step) % 3);
                }
                sleep(ttl + moment);
                cluster.links().unwrap().heal();
                fault
            }
            _ => {
                let fault = recorder.fault(format!("member {member} stopped for a moment"));
                member_of(member).pause().unwrap();
                sleep(moment);
                member_of(member).resume().unwrap();
                fault
            }
        };
        cluster.wait_healthy(RECOVERY_TIMEOUT).unwrap();
        // A server that is stopped or cut off always affects its clients.
        fault.took_effect();
        fault.end();
        sleep(FAULT_INTERVAL);
    }
}
