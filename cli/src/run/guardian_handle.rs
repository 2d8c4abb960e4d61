//! The supervisor's end of the channel to the guardian.

use std::{
    ffi::OsString,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::PathBuf,
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

/// What the guardian is to run.
#[derive(Debug)]
pub(super) struct Start<'a> {
    /// Program and arguments.
    pub(super) command: &'a [OsString],
    /// Between TERM and KILL.
    pub(super) kill_after: Duration,
    /// Until when the lock is held.
    pub(super) deadline: Instant,
    /// What is set anew in its environment.
    pub(super) environment: Vec<(&'static str, OsString)>,
}

/// A guardian at work.
#[derive(Debug)]
pub(super) struct GuardianHandle {
    orders: mpsc::UnboundedSender<Order>,
    reports: mpsc::UnboundedReceiver<Report>,
}

impl GuardianHandle {
    /// Tells the guardian. One that is gone is noticed by its missing reports.
    pub(super) fn send(&self, order: Order) {
        let _ = self.orders.send(order);
    }

    /// What the guardian says next; `None` once it is gone.
    pub(super) async fn recv(&mut self) -> Option<Report> {
        self.reports.recv().await
    }
}

/// Starts a guardian, which starts the command.
pub(super) fn start(start: Start<'_>) -> io::Result<GuardianHandle> {
    let (ours, theirs) = UnixStream::pair()?;
    let group = rustix::process::getpgrp().as_raw_nonzero().get();
    Command::new(myself()?)
        .arg0("tenure")
        .arg(protocol::ARGUMENT)
        .arg(group.to_string())
        .arg(start.kill_after.as_nanos().to_string())
        .arg("--")
        .args(start.command)
        .envs(start.environment)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        // A signal to the group of this process, from the terminal or a shell, must not reach it.
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

/// This very program, also when its file has been replaced meanwhile.
fn myself() -> io::Result<PathBuf> {
    let running = PathBuf::from("/proc/self/exe");
    if cfg!(target_os = "linux") && running.exists() {
        return Ok(running);
    }
    std::env::current_exe()
}

/// The first message carries our standard input, which becomes the command's. The guardian's own
/// is this channel, so that no other descriptor has to be inherited.
fn send_start(channel: &UnixStream, deadline: Instant) -> io::Result<()> {
    let stdin = io::stdin();
    let descriptors = [stdin.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    let message = line(&Order::Start(nanos(deadline)));
    // The channel is new and the message short: it is taken whole.
    sendmsg(
        channel,
        &[IoSlice::new(&message)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// A task of its own, so that a guardian that is stopped cannot hold up the supervisor.
async fn write_orders(mut orders: mpsc::UnboundedReceiver<Order>, mut channel: OwnedWriteHalf) {
    while let Some(order) = orders.recv().await {
        if channel.write_all(&line(&order)).await.is_err() {
            return;
        }
    }
    // Dropping this half would end the channel, which kills the command: it ends with the process.
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
