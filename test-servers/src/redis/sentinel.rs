//! A master, its replicas, and sentinels that monitor them.

use std::{fmt::Write as _, time::Duration};

use redis::Value;

use super::{
    Server, ServerBuilder,
    admin::{self, paired},
};
use crate::{
    Error, Links,
    links::RelayPort,
    poll::{self, Condition},
};

/// The time limit for the servers of the group to discover each other.
const HEALTHY_TIMEOUT: Duration = Duration::from_secs(30);
/// The time limit of a failover on a busy machine.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(30);

const DOWN_AFTER: &str = "down-after-milliseconds";

/// The polling and publishing intervals of sentinels in milliseconds, for a failover within two seconds.
const FAST_FAILOVER_OPTIONS: [&str; 7] = [
    "DEBUG",
    "info-period",
    "500",
    "publish-period",
    "500",
    "ask-period",
    "300",
];

/// Settings of a group that has not started yet. The default: one replica, one sentinel, the name
/// `mymaster`.
#[derive(Clone, Debug)]
#[must_use = "nothing runs before `start`"]
pub struct SentinelBuilder {
    name: String,
    replicas: usize,
    sentinels: usize,
    down_after: Duration,
    failover_timeout: Duration,
    servers: ServerBuilder,
    links: bool,
}

impl SentinelBuilder {
    /// Sets the name of the group.
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Sets the number of replicas, at least one.
    pub fn replicas(mut self, count: usize) -> Self {
        self.replicas = count.max(1);
        self
    }

    /// Sets the number of sentinels, at least one. A majority of them must agree on a failover.
    pub fn sentinels(mut self, count: usize) -> Self {
        self.sentinels = count.max(1);
        self
    }

    /// Sets the time after which a silent master counts as down. The default is 1 s.
    pub fn down_after(mut self, silence: Duration) -> Self {
        self.down_after = silence;
        self
    }

    /// Sets `failover-timeout` of the sentinels: after twice this time they repeat a failed attempt. The
    /// default is 3 s.
    pub fn failover_timeout(mut self, timeout: Duration) -> Self {
        self.failover_timeout = timeout;
        self
    }

    /// Sets the settings of the master and the replicas. TLS is not supported.
    pub fn servers(mut self, settings: ServerBuilder) -> Self {
        self.servers = settings;
        self
    }

    /// Puts a relay in front of each server, so that a test can cut [`Sentinel::links`]. Clients connect through
    /// the relays as well, and are never cut off. Requires Linux.
    pub fn links(mut self) -> Self {
        self.links = true;
        self
    }

    /// Starts all servers. Returns when every sentinel knows the master, all its replicas and all other
    /// sentinels.
    ///
    /// # Errors
    ///
    /// When a server does not start, or when they do not discover each other within 30 s.
    pub fn start(self) -> Result<Sentinel, Error> {
        if self.servers.tls {
            return Err(Error::new(
                "cannot start a group with sentinels and TLS: not supported",
            ));
        }
        let mut group = Sentinel {
            sentinels: Vec::new(),
            name: self.name.clone(),
            servers: Vec::new(),
            announced: Vec::new(),
            links: self.links.then(Links::new).transpose()?,
        };
        group.add_server(self.servers.clone())?;
        for _ in 0..self.replicas {
            let mut replica = self.servers.clone();
            replica.replica_of = group.announced.first().copied();
            group.add_server(replica)?;
        }
        let watch = self.watch(group.announced[0]);
        for _ in 0..self.sentinels {
            let sentinel = Server::prepare(watch.clone())?;
            if let Some(links) = &group.links {
                links.add_member(sentinel.process.last_id());
            }
            group.sentinels.push(sentinel.start_prepared()?);
        }
        for sentinel in &group.sentinels {
            let command: Vec<&str> = ["SENTINEL"]
                .into_iter()
                .chain(FAST_FAILOVER_OPTIONS)
                .collect();
            sentinel.command(&command)?;
        }
        group.wait_until_settled()?;
        Ok(group)
    }

    /// The settings of each sentinel.
    fn watch(&self, master: u16) -> ServerBuilder {
        let name = &self.name;
        let majority = self.sentinels / 2 + 1;
        let mut lines = vec![
            ("monitor", format!("{name} 127.0.0.1 {master} {majority}")),
            (
                DOWN_AFTER,
                format!("{name} {}", self.down_after.as_millis()),
            ),
            (
                "failover-timeout",
                format!("{name} {}", self.failover_timeout.as_millis()),
            ),
        ];
        if self.servers.with_users() {
            lines.push(("auth-user", format!("{name} {}", admin::USER)));
            lines.push(("auth-pass", format!("{name} {}", admin::PASSWORD)));
        }
        let mut settings = Server::builder().program(&self.servers.program);
        settings.arguments.push("--sentinel");
        for (key, value) in lines {
            settings = settings.config("sentinel", &format!("{key} {value}"));
        }
        settings
    }
}

/// A master with replicas and sentinels, all stopped when dropped.
#[derive(Debug)]
pub struct Sentinel {
    /// Declared first, so that no failover starts while the servers end.
    sentinels: Vec<Server>,
    name: String,
    servers: Vec<Server>,
    /// The port of each server that the others and clients use: its own, or that of its relay.
    announced: Vec<u16>,
    links: Option<Links>,
}

impl Sentinel {
    /// The settings of a new group.
    pub fn builder() -> SentinelBuilder {
        SentinelBuilder {
            name: "mymaster".to_owned(),
            replicas: 1,
            sentinels: 1,
            down_after: Duration::from_secs(1),
            failover_timeout: Duration::from_secs(3),
            servers: Server::builder(),
            links: false,
        }
    }

    /// Starts a server of the group, with a relay in front of it if the group has links.
    fn add_server(&mut self, settings: ServerBuilder) -> Result<(), Error> {
        let (server, port) = match &self.links {
            None => {
                let server = settings.start()?;
                let port = server.port();
                (server, port)
            }
            Some(links) => {
                let relay = RelayPort::bind()?;
                let port = relay.number();
                let settings = settings
                    .config("replica-announce-ip", "127.0.0.1")
                    .config("replica-announce-port", &port.to_string());
                let server = Server::prepare(settings)?;
                // Before the start, in which a replica connects to its master.
                let member = links.add_member(server.process.last_id());
                let server = server.start_prepared()?;
                links.relay(relay, member, server.port(), Vec::new())?;
                (server, port)
            }
        };
        self.servers.push(server);
        self.announced.push(port);
        Ok(())
    }

    /// The links between the members: the [servers](Self::servers) in their order, and then the sentinels.
    /// The links among the sentinels are never cut.
    ///
    /// # Errors
    ///
    /// When the group was started without [`SentinelBuilder::links`].
    pub fn links(&self) -> Result<&Links, Error> {
        let links = self.links.as_ref();
        links.ok_or_else(|| Error::new("the members of this group connect without relays"))
    }

    /// Cuts the master off from its replicas and the sentinels, but not from clients. Waits until the sentinels
    /// have promoted a replica, and returns the new master. The old master runs, and takes itself for the
    /// master until [`Links::heal`].
    ///
    /// # Errors
    ///
    /// When the group has no links, or when there is no new master within 30 s.
    pub fn isolate_master(&self) -> Result<&Server, Error> {
        let port = self.master_port(&self.sentinels[0])?;
        let index = self.index_of(port)?;
        self.links()?.isolate(index);
        self.wait_for_new_master(self.servers[index].port())
    }

    /// The name of the group.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `redis+sentinel://127.0.0.1:PORT,127.0.0.1:PORT/NAME`, with all sentinels.
    #[must_use]
    pub fn url(&self) -> String {
        let mut url = String::from("redis+sentinel://");
        for (index, sentinel) in self.sentinels.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let _ = write!(url, "{comma}{}", sentinel.address());
        }
        let _ = write!(url, "/{}", self.name);
        url
    }

    /// The sentinels.
    #[must_use]
    pub fn sentinels(&self) -> &[Server] {
        &self.sentinels
    }

    /// The monitored servers; the first one is the initial master.
    #[must_use]
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// The current master, as the first sentinel reports it.
    ///
    /// # Errors
    ///
    /// When the sentinel does not answer, or names a server outside of this group.
    pub fn master(&self) -> Result<&Server, Error> {
        let port = self.master_port(&self.sentinels[0])?;
        self.server_on(port)
    }

    /// All servers except the current master.
    ///
    /// # Errors
    ///
    /// As [`master`](Self::master).
    pub fn replicas(&self) -> Result<Vec<&Server>, Error> {
        let master = self.master()?.port();
        let others = self.servers.iter().filter(|server| server.port() != master);
        Ok(others.collect())
    }

    /// Waits until every running replica has all data that the master has at the time of the call, so that a
    /// failover loses none of it.
    ///
    /// # Errors
    ///
    /// When that is not so within 30 s.
    pub fn wait_until_in_step(&self) -> Result<(), Error> {
        let master = self.master()?;
        for replica in self.replicas()? {
            if replica.is_running() {
                replica.wait_until_in_step(master)?;
            }
        }
        Ok(())
    }

    /// Makes a replica the master while the old master runs (`SENTINEL FAILOVER`), and returns the new
    /// master.
    ///
    /// # Errors
    ///
    /// When no replica is suitable, or when there is no new master within 30 s.
    pub fn failover(&self) -> Result<&Server, Error> {
        let old = self.master()?.port();
        self.sentinels[0].command(&["SENTINEL", "FAILOVER", &self.name])?;
        self.wait_for_new_master(old)
    }

    /// Kills the master, waits until the sentinels have promoted a replica, and returns the new master.
    ///
    /// # Errors
    ///
    /// When there is no new master within 30 s.
    pub fn kill_master(&self) -> Result<&Server, Error> {
        let master = self.master()?;
        master.kill();
        self.wait_for_new_master(master.port())
    }

    /// Sets the time after which a silent master counts as down, from now on.
    ///
    /// Call this function before the restart of a killed master, which is empty: sentinels elect even a
    /// replica without data, so that a stall of a second would lose all data.
    ///
    /// # Errors
    ///
    /// When a sentinel does not answer.
    pub fn set_down_after(&self, silence: Duration) -> Result<(), Error> {
        let silence = silence.as_millis().to_string();
        for sentinel in &self.sentinels {
            let command = ["SENTINEL", "SET", &self.name, DOWN_AFTER, &silence];
            sentinel.command(&command)?;
        }
        Ok(())
    }

    /// Waits until every sentinel names the same master, not on `old_port`, and this server reports to be the
    /// master.
    ///
    /// # Errors
    ///
    /// When that is not so within 30 s.
    pub fn wait_for_new_master(&self, old_port: u16) -> Result<&Server, Error> {
        let what = format!("the group has another master than the one on port {old_port}");
        poll::until(&what, FAILOVER_TIMEOUT, || {
            let agreed = self.agreed_master();
            Condition::from_answer(agreed.and_then(|master| {
                if master.port() == old_port {
                    return Err(Error::new("the sentinels still name the old one"));
                }
                Ok(master)
            }))
        })
    }

    fn agreed_master(&self) -> Result<&Server, Error> {
        let port = self.master_port(&self.sentinels[0])?;
        for sentinel in &self.sentinels {
            let other = self.master_port(sentinel)?;
            if other != port {
                return Err(Error::new(format!(
                    "the sentinel on port {} names the one on port {other}",
                    sentinel.port()
                )));
            }
        }
        let master = self.server_on(port)?;
        let role = master.probe(&["ROLE"])?;
        let role = admin::text(&role);
        if role.lines().next() != Some("master") {
            return Err(Error::new(format!(
                "the server on port {port} is not yet the master"
            )));
        }
        Ok(master)
    }

    fn master_port(&self, sentinel: &Server) -> Result<u16, Error> {
        let answer = sentinel.probe(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", &self.name])?;
        let answer = admin::text(&answer);
        answer
            .lines()
            .nth(1)
            .and_then(|port| port.parse().ok())
            .ok_or_else(|| {
                Error::new(format!(
                    "the sentinel on port {} does not know a master of {}",
                    sentinel.port(),
                    self.name
                ))
            })
    }

    /// Returns the server with this announced port.
    fn server_on(&self, port: u16) -> Result<&Server, Error> {
        Ok(&self.servers[self.index_of(port)?])
    }

    fn index_of(&self, announced: u16) -> Result<usize, Error> {
        let index = self.announced.iter().position(|port| *port == announced);
        index.ok_or_else(|| Error::new(format!("no server of this group is on port {announced}")))
    }

    /// Waits until every sentinel knows the master, all running replicas as usable, and all other sentinels.
    /// From then on a failover can succeed.
    ///
    /// # Errors
    ///
    /// When that is not so within 30 s.
    pub fn wait_until_settled(&self) -> Result<(), Error> {
        let replicas = self.servers.iter().filter(|s| s.is_running()).count() - 1;
        for sentinel in &self.sentinels {
            let what = format!("the sentinel on port {} knows its group", sentinel.port());
            poll::until(&what, HEALTHY_TIMEOUT, || {
                Condition::from_answer(self.knows_group(sentinel, replicas))
            })
            .map_err(|error| error.with_log(sentinel.end_of_log()))?;
        }
        Ok(())
    }

    fn knows_group(&self, sentinel: &Server, replicas: usize) -> Result<(), Error> {
        let master = sentinel.probe(&["SENTINEL", "MASTER", &self.name])?;
        let flags = paired(&master, "flags").unwrap_or_default();
        let others = paired(&master, "num-other-sentinels").unwrap_or_default();
        if flags != "master" || others != (self.sentinels.len() - 1).to_string() {
            return Err(Error::new(format!(
                "the master's flags are {flags}, and {others} other sentinels are known"
            )));
        }
        let Value::Array(known) = sentinel.probe(&["SENTINEL", "REPLICAS", &self.name])? else {
            return Err(Error::new("no list of replicas"));
        };
        let usable = |replica: &&Value| {
            paired(replica, "flags").as_deref() == Some("slave")
                && paired(replica, "master-link-status").as_deref() == Some("ok")
        };
        let usable = known.iter().filter(usable).count();
        if usable < replicas {
            return Err(Error::new(format!(
                "{usable} of {replicas} replicas are usable"
            )));
        }
        Ok(())
    }
}
