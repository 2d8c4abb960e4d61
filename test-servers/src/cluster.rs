//! Clusters of three servers, whatever they are servers of.

use std::{fmt::Debug, path::Path, thread, time::Duration};

use crate::{
    Certificates, Error,
    poll::{self, Condition},
    process,
};

const SIZE: usize = 3;
/// How many times ports are tried when others take them first.
const MAX_PORT_ATTEMPTS: u32 = 5;
/// How long the members may take to serve after their start.
const HEALTHY_TIMEOUT: Duration = Duration::from_secs(60);

/// What a cluster is made of. Implemented by the servers of this crate.
pub trait Member: Debug + Send + Sync + Sized {
    /// What they are servers of, as messages call it.
    const WHAT: &'static str;
    /// How a server is to be.
    type Settings: Clone + Debug + Default;

    /// Those settings, with what a member needs besides.
    #[doc(hidden)]
    fn as_member(settings: Self::Settings) -> Self::Settings;
    /// A server that does not run yet, and is no member of anything.
    #[doc(hidden)]
    fn prepared(settings: &Self::Settings) -> Result<Self, Error>;
    /// Makes them the members of one cluster on free ports, with nothing in their stores.
    #[doc(hidden)]
    fn unite(members: &mut [Self]) -> Result<(), Error>;
    /// Starts the process, and waits until it listens.
    #[doc(hidden)]
    fn launched(&self) -> Result<(), Error>;
    #[doc(hidden)]
    fn lost_its_port(&self) -> bool;
    /// Forgets all data.
    #[doc(hidden)]
    fn emptied(&self) -> Result<(), Error>;
    /// What is to be done once when a new cluster serves.
    #[doc(hidden)]
    fn first_steps(&self) -> Result<(), Error>;
    /// Why it does not serve; `None` if it does.
    #[doc(hidden)]
    fn trouble(&self) -> Option<String>;
    /// Whether it says at once that it leads: who is asked again and again may be paused.
    #[doc(hidden)]
    fn leads(&self) -> bool;
    #[doc(hidden)]
    fn url_scheme(&self) -> &'static str;

    /// `127.0.0.1:PORT`.
    #[must_use]
    fn address(&self) -> String;
    /// The server's directory.
    #[must_use]
    fn directory(&self) -> &Path;
    /// The certificates of a server with TLS.
    #[must_use]
    fn certificates(&self) -> Option<Certificates>;
    /// Whether the process runs or is paused.
    #[must_use]
    fn is_running(&self) -> bool;
    /// Kills the process (SIGKILL) and waits for its end.
    fn kill(&self);
    /// Kills it if it runs, and starts it again with its data.
    ///
    /// # Errors
    ///
    /// When it ends, or does not listen in time.
    fn restart(&self) -> Result<(), Error>;
    /// Stops the process (SIGSTOP).
    ///
    /// # Errors
    ///
    /// When it does not run.
    fn pause(&self) -> Result<(), Error>;
    /// Lets a paused process go on (SIGCONT).
    ///
    /// # Errors
    ///
    /// When it does not run.
    fn resume(&self) -> Result<(), Error>;
}

/// Hands the parts of [`Member`] that a server has under the same names on to them.
macro_rules! members_as_servers {
    () => {
        fn address(&self) -> String {
            Self::address(self)
        }

        fn directory(&self) -> &std::path::Path {
            Self::directory(self)
        }

        fn certificates(&self) -> Option<$crate::Certificates> {
            Self::certificates(self)
        }

        fn is_running(&self) -> bool {
            Self::is_running(self)
        }

        fn kill(&self) {
            Self::kill(self);
        }

        fn restart(&self) -> Result<(), $crate::Error> {
            Self::restart(self)
        }

        fn pause(&self) -> Result<(), $crate::Error> {
            Self::pause(self)
        }

        fn resume(&self) -> Result<(), $crate::Error> {
            Self::resume(self)
        }
    };
}

pub(crate) use members_as_servers;

/// Settings of a cluster of three that is not started yet. Members of etcd have a heartbeat of 50 ms
/// and elections after 500 ms, those of ZooKeeper a tick of 100 ms.
#[derive(Clone, Debug)]
#[must_use = "nothing runs before `start`"]
pub struct ClusterBuilder<M: Member> {
    members: M::Settings,
}

impl<M: Member> ClusterBuilder<M> {
    /// How the members are to be.
    pub fn members(mut self, settings: M::Settings) -> Self {
        self.members = settings;
        self
    }

    /// Starts all members at the same time, and returns when each of them is healthy.
    ///
    /// # Errors
    ///
    /// When the program is not installed, when a member does not start, or when they are not all
    /// healthy within a minute.
    pub fn start(self) -> Result<Cluster<M>, Error> {
        let settings = M::as_member(self.members);
        for attempt in 1.. {
            let mut members = (0..SIZE)
                .map(|_| M::prepared(&settings))
                .collect::<Result<Vec<_>, _>>()?;
            // Those of a server with TLS are known before they are made.
            if members[0].certificates().is_some() {
                let certificates = Certificates::generate(members[0].directory())?;
                for server in &members[1..] {
                    certificates.copy_to(server.directory())?;
                }
            }
            M::unite(&mut members)?;
            let cluster = Cluster { members };
            match cluster.each(M::launched).and_then(|()| cluster.settle()) {
                Ok(()) => {
                    cluster.members[0].first_steps()?;
                    return Ok(cluster);
                }
                // One of ZooKeeper listens for clients before it finds its other ports taken.
                Err(_)
                    if attempt < MAX_PORT_ATTEMPTS
                        && cluster.members.iter().any(M::lost_its_port) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(format!(
            "no {} cluster: no ports were tried",
            M::WHAT
        )))
    }
}

/// A running cluster, stopped when dropped.
#[derive(Debug)]
pub struct Cluster<M> {
    members: Vec<M>,
}

impl<M: Member> Cluster<M> {
    /// The settings of a new cluster.
    pub fn builder() -> ClusterBuilder<M> {
        ClusterBuilder {
            members: M::Settings::default(),
        }
    }

    /// The three members.
    #[must_use]
    pub fn servers(&self) -> &[M] {
        &self.members
    }

    /// Member `index`, counted from zero around: 3 is 0 again.
    #[must_use]
    pub fn server(&self, index: usize) -> &M {
        &self.members[index % SIZE]
    }

    /// Such as `etcd://127.0.0.1:PORT,127.0.0.1:PORT,127.0.0.1:PORT`, or with `etcds` if there is TLS.
    #[must_use]
    pub fn url(&self) -> String {
        let addresses: Vec<String> = self.members.iter().map(M::address).collect();
        format!("{}://{}", self.members[0].url_scheme(), addresses.join(","))
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
        let wanted = format!("the {} cluster has one leader", M::WHAT);
        poll::until(&wanted, HEALTHY_TIMEOUT, || {
            let leads = |server: &M| server.is_running() && server.leads();
            let leaders: Vec<usize> = (0..SIZE).filter(|i| leads(&self.members[*i])).collect();
            match leaders[..] {
                [leader] => Condition::Ready(leader),
                _ => Condition::NotYet(format!("those that say they lead: {leaders:?}")),
            }
        })
    }

    /// Waits until all three members are healthy, at most `bound`.
    ///
    /// # Errors
    ///
    /// When one is not by then.
    pub fn wait_healthy(&self, bound: Duration) -> Result<(), Error> {
        self.until_healthy(bound, || None)
    }

    /// The same after a start, when none of them may have ended.
    fn settle(&self) -> Result<(), Error> {
        self.until_healthy(HEALTHY_TIMEOUT, || {
            let ended = self.members.iter().find(|server| !server.is_running())?;
            let what = format!("the member {} ended at its start", ended.address());
            let log = process::end_of_log(&ended.directory().join("server.log"));
            Some(Error::new(what).with_log(log))
        })
    }

    fn until_healthy(
        &self,
        bound: Duration,
        hopeless: impl Fn() -> Option<Error>,
    ) -> Result<(), Error> {
        let wanted = format!("all members of the {} cluster are healthy", M::WHAT);
        poll::until(&wanted, bound, || {
            if let Some(error) = hopeless() {
                return Condition::Failed(error);
            }
            let reason = self.members.iter().find_map(|server| {
                let why = server.trouble()?;
                Some(format!("the member {}: {why}", server.address()))
            });
            reason.map_or(Condition::Ready(()), Condition::NotYet)
        })
    }

    /// Kills all members, and starts them again with their data; returns when all are healthy.
    ///
    /// # Errors
    ///
    /// When one does not start, or they are not all healthy within a minute.
    pub fn restart(&self) -> Result<(), Error> {
        self.members.iter().for_each(M::kill);
        self.each(M::launched)?;
        self.settle()
    }

    /// As [`restart`](Self::restart), but without their data: a new cluster on the same ports.
    ///
    /// # Errors
    ///
    /// As [`restart`](Self::restart).
    pub fn wipe(&self) -> Result<(), Error> {
        self.members.iter().for_each(M::kill);
        for server in &self.members {
            server.emptied()?;
        }
        self.restart()?;
        self.members[0].first_steps()
    }

    /// The same to all members at the same time.
    fn each(&self, act: impl Fn(&M) -> Result<(), Error> + Sync) -> Result<(), Error> {
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

#[cfg(test)]
mod tests {
    use std::{
        fs,
        net::{Ipv4Addr, TcpListener},
    };

    use super::*;
    use crate::zookeeper::Server;

    #[test]
    fn a_member_that_ended_is_told_at_once_and_with_its_log() {
        let cluster = Cluster::<Server>::builder().start().unwrap();
        cluster.settle().unwrap();
        cluster.server(1).kill();
        let error = cluster.settle().unwrap_err().to_string();
        assert!(error.contains(&cluster.server(1).address()), "{error}");
        assert!(error.contains("ended at its start"), "{error}");
    }

    #[test]
    fn a_member_that_finds_its_election_port_taken_is_to_be_tried_on_another() {
        let cluster = Cluster::<Server>::builder().start().unwrap();
        let server = cluster.server(1);
        server.kill();
        let settings = fs::read_to_string(server.directory().join("zoo.cfg")).unwrap();
        let line = settings.lines().find(|line| line.starts_with("server.2="));
        let election = line.and_then(|line| line.split([':', ';']).nth(2));
        let port: u16 = election.and_then(|port| port.parse().ok()).unwrap();
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        // It may listen for clients before it notices.
        let outcome = server.launched().and_then(|()| cluster.settle());
        let error = outcome.unwrap_err();
        assert!(server.lost_its_port(), "{error}");
    }
}
