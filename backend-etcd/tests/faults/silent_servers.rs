//! Servers that accept connections and answer nothing, beside one that answers.

use tenure_test_servers::{etcd::Server, wire::Proxy};
use tokio::{task::JoinSet, time::sleep};

use crate::common::{acquire_free, client, millis, seconds};

const CLIENTS: usize = 12;
/// A machine that stands still for half a second makes a trial worthless.
const TRIALS: usize = 3;

/// Each client tries the servers in an order of its own. For some of them the two silent ones come first:
/// the third must be tried while the second still seems to be slow.
#[tokio::test(flavor = "multi_thread")]
async fn l5_holder_fails_over_past_two_silent_servers() {
    let server = Server::builder().start().unwrap();
    let mut lost = Vec::new();
    for trial in 0..TRIALS {
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let to_server = || Proxy::for_etcd(server.address()).unwrap();
            let proxies = [to_server(), to_server(), to_server()];
            clients.spawn(async move {
                let addresses = proxies.each_ref().map(Proxy::address).join(",");
                let client = client(&format!("etcd://{addresses}"), seconds(3)).await;
                let guard = acquire_free(&client, &format!("{trial}-{number}")).await;
                // The next renewal is due soon.
                sleep(millis(900)).await;
                for proxy in &proxies[..2] {
                    proxy.hold_requests();
                    proxy.hold_replies();
                }
                sleep(seconds(6)).await;
                guard.check().is_err()
            });
        }
        let ended = clients.join_all().await;
        lost.push(ended.into_iter().filter(|ended| *ended).count());
        if lost.last() == Some(&0) {
            return;
        }
    }
    panic!("of {CLIENTS} guards were lost, in each trial: {lost:?}");
}
