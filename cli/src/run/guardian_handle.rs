//! The supervisor's end of the channel to the guardian.

use std::{
    ffi::OsString,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tenure::clock::Instant;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    sync::mpsc,
};

use crate::guardian::protocol::{self, Lines, Order, Report, line, nanos};

/// The parameters of a guardian and its command.
#[derive(Debug)]
pub(super) struct Start<'a> {
    /// The path of this program.
    pub(super) executable: &'a Path,
    /// Program and arguments.
    pub(super) command: &'a [OsString],
    /// The time between TERM and KILL.
    pub(super) kill_after: Duration,
    /// The end of the lease.
    pub(super) deadline: Instant,
    /// The variables to set in its environment.
    pub(super) environment: Vec<(&'static str, OsString)>,
}

/// A running guardian.
#[derive(Debug)]
pub(super) struct GuardianHandle {
    orders: mpsc::UnboundedSender<Order>,
    reports: mpsc::UnboundedReceiver<Report>,
}

impl GuardianHandle {
    /// Sends an order to the guardian. If the guardian has ended, [`recv`](Self::recv) returns
    /// `None`.
    pub(super) fn send(&self, order: Order) {
        let _ = self.orders.send(order);
    }

    /// Returns the next report of the guardian; `None` after the guardian has ended.
    pub(super) async fn recv(&mut self) -> Option<Report> {
        self.reports.recv().await
    }
}

/// Starts a guardian, which starts the command.
pub(super) fn start(start: Start<'_>) -> io::Result<GuardianHandle> {
    let (ours, theirs) = UnixStream::pair()?;
    // 0 if the leader of the group is outside of this pid namespace.
    let group = nix::unistd::getpgrp();
    Command::new(start.executable)
        .arg0("tenure")
        .arg(protocol::ARGUMENT)
        .arg(group.to_string())
        .arg(start.kill_after.as_nanos().to_string())
        .arg("--")
        .args(start.command)
        .envs(start.environment)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        // A signal to the group of this process, from the terminal or a shell, must not reach the
        // guardian.
        .process_group(0)
        .spawn()?;
    send_start(&ours, start.deadline)?;

    ours.set_nonblocking(true)?;
    let (reading, writing) = tokio::net::UnixStream::from_std(ours)?.into_split();
    let (orders, to_write) = mpsc::unbounded_channel();
    let (read, reports) = mpsc::unbounded_channel();
    tokio::spawn(write_orders(to_write, writing));
    tokio::spawn(read_reports(reading, read));
    Ok(GuardianHandle { orders, reports })
}

/// Returns the path of this program, even if its file has been replaced since its start.
pub(super) fn own_executable() -> io::Result<PathBuf> {
    let running = PathBuf::from("/proc/self/exe");
    if cfg!(target_os = "linux") && running.exists() {
        return Ok(running);
    }
    std::env::current_exe()
}

/// Sends the first message together with the standard input of this process, which becomes the
/// command's. The guardian's own standard input is this channel, so it inherits no other
/// descriptor.
fn send_start(channel: &UnixStream, deadline: Instant) -> io::Result<()> {
    let stdin = io::stdin();
    let descriptors = [stdin.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    let message = line(&Order::Start(nanos(deadline)));
    // The channel is new and the message is short, so the kernel accepts the whole message.
    sendmsg(
        channel,
        &[IoSlice::new(&message)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Writes orders to the channel. This runs in a separate task, so that a stopped guardian cannot
/// block the supervisor.
async fn write_orders(mut orders: mpsc::UnboundedReceiver<Order>, mut channel: OwnedWriteHalf) {
    while let Some(order) = orders.recv().await {
        if channel.write_all(&line(&order)).await.is_err() {
            return;
        }
    }
    // Dropping this half would close the channel, and the guardian would kill the command. The
    // channel closes with the process instead.
    channel.forget();
}

async fn read_reports(mut channel: OwnedReadHalf, reports: mpsc::UnboundedSender<Report>) {
    let mut lines = Lines::default();
    let mut bytes = [0; 1024];
    loop {
        match channel.read(&mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(count) => lines.feed(&bytes[..count]),
        }
        while let Some(report) = lines.next() {
            let _ = reports.send(report);
        }
    }
}
