//! An etcd server as a member of a cluster.

use super::{Server, ServerBuilder, builder::Membership};
use crate::{Error, cluster, ports};

impl cluster::Member for Server {
    const WHAT: &'static str = "etcd";
    type Settings = ServerBuilder;

    fn as_member(settings: ServerBuilder) -> ServerBuilder {
        settings.with_timers_of_a_cluster()
    }

    fn prepared(settings: &ServerBuilder) -> Result<Self, Error> {
        Self::prepare(settings.clone())
    }

    fn unite(members: &mut [Self]) -> Result<(), Error> {
        let ports = members
            .iter()
            .map(|_| Self::ports(&mut ports::free))
            .collect::<Result<Vec<_>, _>>()?;
        for (server, member) in members.iter_mut().zip(Membership::of(&ports)) {
            server.join(member)?;
        }
        Ok(())
    }

    fn launched(&self) -> Result<(), Error> {
        self.launch()
    }

    fn lost_its_port(&self) -> bool {
        self.port_was_taken()
    }

    fn emptied(&self) -> Result<(), Error> {
        self.empty()
    }

    fn first_steps(&self) -> Result<(), Error> {
        self.make_users()
    }

    fn trouble(&self) -> Option<String> {
        self.not_healthy()
    }

    fn leads(&self) -> bool {
        self.leads_now()
    }

    fn url_scheme(&self) -> &'static str {
        self.scheme()
    }

    cluster::members_as_servers!();
}
