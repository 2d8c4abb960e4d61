//! The faults of a run on a cluster of three: what can happen to its members.

use std::{thread::sleep, time::Duration};

use tenure_conformance::history::Recorder;

use crate::storm::random_below;

/// How long a cluster may take to be whole again.
const WHOLE: Duration = Duration::from_secs(60);
/// Between two faults.
const CALM: Duration = Duration::from_millis(1_500);

/// What a test can do to three servers. Members are counted from 0.
pub(crate) trait Members {
    fn leader(&self) -> Option<usize>;
    fn kill(&self, member: usize);
    fn restart(&self, member: usize);
    fn pause(&self, member: usize);
    fn resume(&self, member: usize);
    fn wait_whole(&self, bound: Duration);
}

/// Strikes so often, each time in another way, and waits each time until the cluster is whole.
pub(crate) fn strike(members: &impl Members, recorder: &Recorder, ttl: Duration, times: usize) {
    for number in 0..times {
        let member = random_below(3);
        let leader = members.leader().unwrap_or(member);
        let moment = Duration::from_millis(300 + random_below(1_500) as u64);
        let fault = match number % 5 {
            0 => {
                let fault = recorder.fault(format!("member {member} killed and restarted"));
                members.kill(member);
                sleep(moment);
                members.restart(member);
                fault
            }
            1 => {
                let fault = recorder.fault(format!("the leader, {leader}, stopped past the TTL"));
                members.pause(leader);
                sleep(ttl + moment);
                members.resume(leader);
                fault
            }
            2 => {
                let fault = recorder.fault(format!("the leader, {leader}, killed and restarted"));
                members.kill(leader);
                sleep(moment);
                members.restart(leader);
                fault
            }
            3 => {
                let other = (member + 1) % 3;
                let fault = recorder.fault(format!("members {member} and {other} killed"));
                members.kill(member);
                members.kill(other);
                sleep(moment);
                members.restart(member);
                members.restart(other);
                fault
            }
            _ => {
                let fault = recorder.fault(format!("member {member} stopped for a moment"));
                members.pause(member);
                sleep(moment);
                members.resume(member);
                fault
            }
        };
        members.wait_whole(WHOLE);
        fault.end();
        sleep(CALM);
    }
}
