//! Clusters of three servers of any kind.

use std::{thread, time::Duration};

use crate::{
    Certificates, Error, Links,
    links::RelayPort,
    poll::{self, Condition},
    ports::{Ports, RelayPorts},
    server::{Kind, MAX_PORT_ATTEMPTS, Membership, Server},
};

const SIZE: usize = 3;
/// The time limit for all members to serve after their start.
const HEALTHY_TIMEOUT: Duration = Duration::from_secs(60);

/// A kind of server of which clusters can be made. Only this crate implements it.
pub trait ClusterKind: Kind {
    /// Completes the settings of a server for a member.
    #[doc(hidden)]
    fn into_member(self) -> Self {
        self
    }

    /// Returns whether the server reports that it leads. The time limit is short, since a polled server may
    /// be paused.
    #[doc(hidden)]
    fn leads(server: &Server<Self>) -> bool;
}

/// Settings of a cluster of three that has not started yet. Members of etcd have a heartbeat of 50 ms
/// and an election timeout of 500 ms; members of ZooKeeper have a tick of 100 ms.
#[derive(Clone, Debug)]
#[must_use = "nothing runs before `start`"]
pub struct ClusterBuilder<K> {
    members: K,
    links: bool,
}

impl<K: ClusterKind> ClusterBuilder<K> {
    /// Sets the settings of the members.
    pub fn members(mut self, settings: K) -> Self {
        self.members = settings;
        self
    }

    /// Makes the members connect through relays, so that a test can cut [`Cluster::links`]. Requires Linux.
    pub fn links(mut self) -> Self {
        self.links = true;
        self
    }

    /// Starts all members at the same time, and returns when each of them is healthy.
    ///
    /// # Errors
    ///
    /// When the program is not installed, when a member does not start, or when they are not all
    /// healthy within a minute.
    pub fn start(self) -> Result<Cluster<K>, Error> {
        let settings = self.members.into_member();
        let mut attempt = 1;
        loop {
            let mut members = (0..SIZE)
                .map(|_| Server::prepare(settings.clone()))
                .collect::<Result<Vec<_>, _>>()?;
            if settings.has_tls() {
                let certificates = Certificates::generate(members[0].directory())?;
                for server in &members[1..] {
                    certificates.copy_to(server.directory())?;
                }
            }
            let mut ports = (0..SIZE)
                .map(|_| Ports::free())
                .collect::<Result<Vec<_>, _>>()?;
            let links = if self.links {
                Some(connect(&members, &mut ports)?)
            } else {
                None
            };
            for (index, server) in members.iter_mut().enumerate() {
                let ports = ports.clone();
                server.join(Membership { index, ports })?;
            }
            let cluster = Cluster { members, links };
            let started = cluster.each(Server::launch);
            match started.and_then(|()| cluster.settle()) {
                Ok(()) => {
                    K::initialize(&cluster.members[0])?;
                    return Ok(cluster);
                }
                // A ZooKeeper server listens for clients before it finds its other ports taken.
                Err(_)
                    if attempt < MAX_PORT_ATTEMPTS
                        && cluster.members.iter().any(Server::port_was_taken) =>
                {
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// A running cluster, stopped when dropped.
#[derive(Debug)]
pub struct Cluster<K: Kind> {
    members: Vec<Server<K>>,
    links: Option<Links>,
}

impl<K: ClusterKind> Cluster<K> {
    /// The settings of a new cluster.
    pub fn builder() -> ClusterBuilder<K> {
        ClusterBuilder {
            members: K::default(),
            links: false,
        }
    }

    /// The three members.
    #[must_use]
    pub fn servers(&self) -> &[Server<K>] {
        &self.members
    }

    /// The links between the members, by their indices.
    ///
    /// # Errors
    ///
    /// When the cluster was started without [`ClusterBuilder::links`].
    pub fn links(&self) -> Result<&Links, Error> {
        let links = self.links.as_ref();
        links.ok_or_else(|| Error::new("the members of this cluster connect without relays"))
    }

    /// Member `index` modulo three.
    #[must_use]
    pub fn server(&self, index: usize) -> &Server<K> {
        &self.members[index % SIZE]
    }

    /// Such as `etcd://127.0.0.1:PORT,127.0.0.1:PORT,127.0.0.1:PORT`, or with `etcds` if there is TLS.
    #[must_use]
    pub fn url(&self) -> String {
        let addresses: Vec<String> = self.members.iter().map(Server::address).collect();
        format!(
            "{}://{}",
            self.members[0].settings.scheme(),
            addresses.join(",")
        )
    }

    /// The certificates of a cluster with TLS, the same for all members.
    #[must_use]
    pub fn certificates(&self) -> Option<Certificates> {
        self.members[0].certificates()
    }

    /// The index of the only running member that reports to be the leader.
    ///
    /// # Errors
    ///
    /// When there is no leader within a minute.
    pub fn leader(&self) -> Result<usize, Error> {
        let wanted = format!("the {} cluster has one leader", K::NAME);
        self.find_leader(&wanted, |_| true)
    }

    /// The index of the only running member except `old` that reports to be the leader, whatever `old`
    /// reports: a member that is cut off from the others does not know at once that another one leads.
    ///
    /// # Errors
    ///
    /// When there is no such leader within a minute.
    pub fn leader_other_than(&self, old: usize) -> Result<usize, Error> {
        let wanted = format!("the {} cluster has another leader", K::NAME);
        self.find_leader(&wanted, |member| member != old % SIZE)
    }

    fn find_leader(&self, wanted: &str, among: impl Fn(usize) -> bool) -> Result<usize, Error> {
        poll::until(wanted, HEALTHY_TIMEOUT, || {
            let leads = |member: &usize| {
                let server = &self.members[*member];
                among(*member) && server.is_running() && K::leads(server)
            };
            let leaders: Vec<usize> = (0..SIZE).filter(leads).collect();
            match leaders[..] {
                [leader] => Condition::Ready(leader),
                _ => Condition::NotYet(format!(
                    "the members that report to be leaders: {leaders:?}"
                )),
            }
        })
    }

    /// Waits until all three members are healthy, at most for `bound`.
    ///
    /// # Errors
    ///
    /// When a member is not healthy by then.
    pub fn wait_healthy(&self, bound: Duration) -> Result<(), Error> {
        self.until_healthy(bound, || None)
    }

    /// As [`wait_healthy`](Self::wait_healthy), after a start: fails at once if a member has ended.
    fn settle(&self) -> Result<(), Error> {
        self.until_healthy(HEALTHY_TIMEOUT, || {
            let ended = self.members.iter().find(|server| !server.is_running())?;
            let what = format!("the member {} ended at its start", ended.address());
            Some(Error::new(what).with_log(ended.end_of_log()))
        })
    }

    fn until_healthy(
        &self,
        bound: Duration,
        hopeless: impl Fn() -> Option<Error>,
    ) -> Result<(), Error> {
        let wanted = format!("all members of the {} cluster are healthy", K::NAME);
        poll::until(&wanted, bound, || {
            if let Some(error) = hopeless() {
                return Condition::Failed(error);
            }
            let reason = self.members.iter().find_map(|server| {
                let why = server.not_serving()?;
                Some(format!("the member {}: {why}", server.address()))
            });
            reason.map_or(Condition::Ready(()), Condition::NotYet)
        })
    }

    /// Kills all members and starts them again with their data. Returns when all are healthy.
    ///
    /// # Errors
    ///
    /// When a member does not start, or when not all members are healthy within a minute.
    pub fn restart(&self) -> Result<(), Error> {
        self.members.iter().for_each(Server::kill);
        self.each(Server::launch)?;
        self.settle()
    }

    /// As [`restart`](Self::restart), but without their data: a new cluster on the same ports.
    ///
    /// # Errors
    ///
    /// As [`restart`](Self::restart).
    pub fn wipe(&self) -> Result<(), Error> {
        self.members.iter().for_each(Server::kill);
        for server in &self.members {
            server.empty()?;
        }
        self.restart()?;
        K::initialize(&self.members[0])
    }

    /// Applies a function to all members at the same time.
    fn each(&self, act: impl Fn(&Server<K>) -> Result<(), Error> + Sync) -> Result<(), Error> {
        thread::scope(|scope| {
            let acts: Vec<_> = self
                .members
                .iter()
                .map(|server| scope.spawn(|| act(server)))
                .collect();
            let outcomes = acts.into_iter().map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(Error::new("a thread of this test panicked")))
            });
            outcomes.fold(Ok(()), Result::and)
        })
    }
}

/// Starts relays in front of all members, and adds their ports.
fn connect<K: ClusterKind>(members: &[Server<K>], ports: &mut [Ports]) -> Result<Links, Error> {
    let links = Links::new()?;
    let (mut relays, mut addresses) = (Vec::new(), Vec::new());
    for (server, ports) in members.iter().zip(&mut *ports) {
        let member = links.add_member(server.process.last_id());
        let (peer, election) = (RelayPort::bind()?, RelayPort::bind()?);
        ports.relays = Some(RelayPorts {
            peer: peer.number(),
            election: election.number(),
        });
        let address = |port: u16| format!("127.0.0.1:{port}");
        addresses.push((address(ports.election), address(election.number())));
        links.relay(peer, member, ports.peer, Vec::new())?;
        relays.push((election, member, ports.election));
    }
    // A ZooKeeper server sends its own election address with each connection, and is connected to there.
    for (relay, member, target) in relays {
        links.relay(relay, member, target, addresses.clone())?;
    }
    Ok(links)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        net::{Ipv4Addr, TcpListener},
    };

    use super::*;
    use crate::zookeeper::ServerBuilder;

    #[test]
    fn member_that_ended_is_reported_at_once_with_its_log() {
        let cluster = Cluster::<ServerBuilder>::builder().start().unwrap();
        cluster.settle().unwrap();
        cluster.server(1).kill();
        let error = cluster.settle().unwrap_err().to_string();
        assert!(error.contains(&cluster.server(1).address()), "{error}");
        assert!(error.contains("ended at its start"), "{error}");
    }

    #[test]
    fn member_with_a_taken_election_port_is_recognized() {
        let cluster = Cluster::<ServerBuilder>::builder().start().unwrap();
        let server = cluster.server(1);
        server.kill();
        let settings = fs::read_to_string(server.directory().join("zoo.cfg")).unwrap();
        let line = settings.lines().find(|line| line.starts_with("server.2="));
        let election = line.and_then(|line| line.split([':', ';']).nth(2));
        let port: u16 = election.and_then(|port| port.parse().ok()).unwrap();
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        // It may listen for clients before it detects this.
        let outcome = server.launch().and_then(|()| cluster.settle());
        let error = outcome.unwrap_err();
        assert!(server.port_was_taken(), "{error}");
    }
}
