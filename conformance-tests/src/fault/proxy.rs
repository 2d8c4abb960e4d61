//! A proxy in front of each server, which injects faults on connections.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use super::{
    Fault, Line,
    relay::{self, Control},
};

/// A proxy for each server of a store. Dropping this value closes the proxies and all connections.
#[derive(Debug)]
pub struct Proxies {
    addresses: Vec<SocketAddr>,
    /// One for each server.
    controls: Vec<Arc<Control>>,
    /// Aborted when dropped.
    _listening: JoinSet<()>,
}

impl Proxies {
    /// Listens on a free port of 127.0.0.1 for each of the servers, `host:port`, in their order.
    ///
    /// Call this function inside a Tokio runtime, in which the proxies then run.
    ///
    /// # Errors
    ///
    /// When no port is free.
    pub async fn start<S: Into<String>>(
        servers: impl IntoIterator<Item = S> + Send,
    ) -> io::Result<Self> {
        let servers: Vec<String> = servers.into_iter().map(Into::into).collect();
        let mut addresses = Vec::new();
        let mut controls = Vec::new();
        let mut listening = JoinSet::new();
        for server in servers {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            addresses.push(listener.local_addr()?);
            let control = Arc::new(Control {
                fault: watch::Sender::new(Fault::None),
                resets: watch::Sender::new(0),
                effects: AtomicU64::new(0),
            });
            listening.spawn(listen(listener, server, Arc::clone(&control)));
            controls.push(control);
        }
        Ok(Self {
            addresses,
            controls,
            _listening: listening,
        })
    }

    /// Returns the addresses of the proxies, in the order of the servers.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns the addresses of the proxies, separated by commas.
    #[must_use]
    pub fn list(&self) -> String {
        let all: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        all.join(",")
    }
}

impl Line for Proxies {
    fn set(&self, fault: Fault) {
        self.controls.iter().for_each(|control| control.set(fault));
    }

    fn servers(&self) -> usize {
        self.controls.len()
    }

    fn set_on(&self, server: usize, fault: Fault) {
        if let Some(control) = self.controls.get(server) {
            control.set(fault);
        }
    }

    fn reset(&self) {
        self.controls.iter().for_each(|control| control.reset());
    }

    fn effects(&self) -> u64 {
        let effects = self.controls.iter();
        effects
            .map(|control| control.effects.load(Ordering::Relaxed))
            .sum()
    }
}

async fn listen(listener: TcpListener, server: String, control: Arc<Control>) {
    // Dropped with this task.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // An error concerns one client only.
                if let Ok((client, _)) = accepted {
                    connections.spawn(serve(client, server.clone(), Arc::clone(&control)));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(client: TcpStream, server: String, control: Arc<Control>) {
    let mut resets = control.resets.subscribe();
    let refused = || *control.fault.borrow() == Fault::Refuse;
    if refused() {
        control.took_effect();
        return relay::reset(&client);
    }
    let Ok(server) = TcpStream::connect(server).await else {
        return relay::reset(&client);
    };
    // The fault may have been set since the first check.
    if refused() {
        control.took_effect();
        return relay::reset(&client);
    }
    relay::run(client, server, &mut resets, &control).await;
}
