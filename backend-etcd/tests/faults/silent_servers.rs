//! Servers that accept connections and answer nothing, beside one that answers.

use std::time::Duration;

use tenure_core::{Client, driver::ConnectionOptions};
use tenure_etcd::Options;
use tenure_test_servers::{etcd::Server, wire::Proxy};
use tokio::{task::JoinSet, time::sleep};

use crate::common::{acquire_free, millis, seconds, store};

const CLIENTS: usize = 12;
/// Long enough that a busy machine has time for two failovers.
const TTL: Duration = seconds(6);
/// A machine that stands still for a second makes a trial worthless.
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
                // Two of these in a row would take longer than the lease.
                let options = ConnectionOptions::default().with_connect_timeout(TTL * 2 / 3);
                let store = store(
                    &format!("etcd://{addresses}"),
                    Options::default().connection(options),
                );
                let client = Client::builder(store).ttl(TTL).connect().await.unwrap();
                let guard = acquire_free(&client, &format!("{trial}-{number}")).await;
                // The next renewal is due soon.
                sleep(TTL / 3 - millis(100)).await;
                for proxy in &proxies[..2] {
                    proxy.hold_requests();
                    proxy.hold_replies();
                }
                sleep(TTL * 2).await;
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
