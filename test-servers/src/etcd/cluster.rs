//! An etcd cluster of three servers.

use std::{thread, time::Duration};

use super::{Server, ServerBuilder, builder::Membership};
use crate::{
    Certificates, Error,
    poll::{self, Look},
    ports,
};

const SIZE: usize = 3;
/// How many times ports are tried when others take them first.
const PORTS: u32 = 5;
/// How long the members may take to serve after their start.
const SETTLE: Duration = Duration::from_secs(60);

/// Settings of a cluster that is not started yet: three servers, with a heartbeat of 50 ms and
/// elections after 500 ms.
#[derive(Clone, Debug)]
#[must_use = "nothing runs before `start`"]
pub struct ClusterBuilder {
    members: ServerBuilder,
}

impl ClusterBuilder {
    /// How the members are to be.
    pub fn members(mut self, settings: ServerBuilder) -> Self {
        self.members = settings;
        self
    }

    /// Starts all members at the same time, and returns when each of them is healthy.
    ///
    /// # Errors
    ///
    /// When the program is not installed, when a member does not start, or when they are not all
    /// healthy within a minute.
    pub fn start(self) -> Result<Cluster, Error> {
        let settings = self.members.with_timers_of_a_cluster();
        for attempt in 1.. {
            let mut members = (0..SIZE)
                .map(|_| Server::prepare(settings.clone()))
                .collect::<Result<Vec<_>, _>>()?;
            let ports = (0..SIZE)
                .map(|_| Server::ports(&mut ports::free))
                .collect::<Result<Vec<_>, _>>()?;
            if settings.tls {
                let certificates = Certificates::generate(members[0].directory())?;
                for server in &members[1..] {
                    certificates.copy_to(server.directory())?;
                }
            }
            for (server, member) in members.iter_mut().zip(Membership::of(&ports)) {
                server.join(member)?;
            }
            let cluster = Cluster { members };
            match cluster.each(Server::launch) {
                Ok(()) => {
                    cluster.wait_healthy(SETTLE)?;
                    cluster.members[0].make_users()?;
                    return Ok(cluster);
                }
                Err(_) if attempt < PORTS && cluster.members.iter().any(Server::port_was_taken) => {
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::new("no etcd cluster: no ports were tried"))
    }
}

/// A running cluster, stopped when dropped.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<Server>,
}

impl Cluster {
    /// The settings of a new cluster.
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder {
            members: Server::builder(),
        }
    }

    /// The three members.
    #[must_use]
    pub fn servers(&self) -> &[Server] {
        &self.members
    }

    /// Member `index`, counted from zero around: 3 is 0 again.
    #[must_use]
    pub fn server(&self, index: usize) -> &Server {
        &self.members[index % SIZE]
    }

    /// `etcd://127.0.0.1:PORT,127.0.0.1:PORT,127.0.0.1:PORT`, or with `etcds` if there is TLS.
    #[must_use]
    pub fn url(&self) -> String {
        let addresses: Vec<String> = self.members.iter().map(Server::address).collect();
        format!("{}://{}", self.members[0].scheme(), addresses.join(","))
    }

    /// The certificates of a cluster with TLS, the same for all members.
    #[must_use]
    pub fn certificates(&self) -> Option<Certificates> {
        self.members[0].certificates()
    }

    /// The index of the one member that leads, as the members say that run.
    ///
    /// # Errors
    ///
    /// When there is none within a minute.
    pub fn leader(&self) -> Result<usize, Error> {
        poll::until("the etcd cluster has one leader", SETTLE, || {
            let leads = |server: &Server| server.is_running() && server.leads_now();
            let leaders: Vec<usize> = (0..SIZE).filter(|i| leads(&self.members[*i])).collect();
            match leaders[..] {
                [leader] => Look::Ready(leader),
                _ => Look::NotYet(format!("those that say they lead: {leaders:?}")),
            }
        })
    }

    /// Waits until all three members are healthy, at most `bound`.
    ///
    /// # Errors
    ///
    /// When one is not by then.
    pub fn wait_healthy(&self, bound: Duration) -> Result<(), Error> {
        poll::until("all members of the etcd cluster are healthy", bound, || {
            let reason = self.members.iter().find_map(|server| {
                let why = server.not_healthy()?;
                Some(format!("the member on port {}: {why}", server.port()))
            });
            reason.map_or(Look::Ready(()), Look::NotYet)
        })
    }

    /// Kills all members, and starts them again with their data; returns when all are healthy.
    ///
    /// # Errors
    ///
    /// When one does not start, or they are not all healthy within a minute.
    pub fn restart(&self) -> Result<(), Error> {
        self.members.iter().for_each(Server::kill);
        self.each(Server::launch)?;
        self.wait_healthy(SETTLE)
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
        self.members[0].make_users()
    }

    /// The same to all members at the same time.
    fn each(&self, act: impl Fn(&Server) -> Result<(), Error> + Sync) -> Result<(), Error> {
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
