//! The byte stream of one connection: how it is opened, and whether the peer responds.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tenure_core::{driver::ConnectError, error::ErrorKind, settings::Tls};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream, lookup_host},
    time::{Instant, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::connect_error;
use crate::address::Endpoint;

/// The idle time before the first keep-alive probe.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// The interval between keep-alive probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
/// The number of unanswered probes after which the connection ends.
const KEEPALIVE_MAX_PROBES: u32 = 3;

/// Time limits of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// The limit for connecting, shared by all addresses of the host name.
    pub(super) connect: Duration,
    /// The limit for a response.
    pub(super) response: Duration,
}

/// Opens a connection. The caller limits the total time and can see whether it was spent in the TLS
/// handshake.
pub(super) async fn open(
    endpoint: &Endpoint,
    secure: bool,
    files: &Tls,
    timeouts: Timeouts,
    in_tls_handshake: &AtomicBool,
) -> Result<RawStream, ConnectError> {
    let io_error = |error: io::Error| connect_error::from_io(endpoint, &error, files);
    let (host, port) = match endpoint {
        Endpoint::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(io_error)?;
            return Ok(RawStream::Unix(stream));
        }
        Endpoint::Tcp { host, port } => (host.as_str(), *port),
    };
    let tcp = connect(host, port, timeouts.connect)
        .await
        .map_err(io_error)?;
    configure_socket(&tcp, timeouts.response).map_err(io_error)?;
    if !secure {
        return Ok(RawStream::Tcp(tcp));
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|_| {
        let detail = format!("{endpoint}: this host name is not valid in a certificate");
        ConnectError::new(ErrorKind::Config, detail)
    })?;
    let files_for_task = files.clone();
    let tls_config = tokio::task::spawn_blocking(move || tenure_tls::configure(&files_for_task))
        .await
        .map_err(|_| ConnectError::new(ErrorKind::Unavailable, "the runtime is shutting down"))??;
    in_tls_handshake.store(true, Ordering::Relaxed);
    let stream = TlsConnector::from(tls_config)
        .connect(name, tcp)
        .await
        .map_err(io_error)?;
    in_tls_handshake.store(false, Ordering::Relaxed);
    Ok(RawStream::Tls(Box::new(stream)))
}

async fn connect(host: &str, port: u16, limit: Duration) -> io::Result<TcpStream> {
    let addresses = lookup_host((host, port)).await.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot resolve the host name: {error}"),
        )
    })?;
    let addresses: Vec<_> = addresses.collect();
    // An address that never answers must leave time for the next one.
    let share = limit / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let mut last = None;
    for address in addresses {
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = Some(error),
            Err(_) => last = Some(io::ErrorKind::TimedOut.into()),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::other("the host name has no address")))
}

/// Changes the defaults of the operating system that do not suit small urgent requests or peers
/// that vanish.
fn configure_socket(tcp: &TcpStream, limit: Duration) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    let probes = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL);
    #[cfg(not(windows))]
    let probes = probes.with_retries(KEEPALIVE_MAX_PROBES);
    socket.set_tcp_keepalive(&probes)?;
    // The connection ends if the peer's machine acknowledges no bytes for this long. `Liveness`
    // notices it earlier while a request is pending.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(limit.saturating_mul(2)))?;
    #[cfg(not(target_os = "linux"))]
    let _ = limit;
    Ok(())
}

/// The underlying stream.
#[derive(Debug)]
pub(super) enum RawStream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

/// Tracks since when the peer has owed a response without sending a single byte.
///
/// The server answers every request, so a silence that is longer than a request may take means that
/// the peer is gone or stopped. That holds whether or not the caller still waits for the response.
#[derive(Debug)]
pub(super) struct Liveness {
    begun: Instant,
    /// Milliseconds since `begun`, plus 1; 0 while no response is pending.
    waiting_since: AtomicU64,
    failure: Mutex<Option<io::Error>>,
}

impl Liveness {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            waiting_since: AtomicU64::new(0),
            failure: Mutex::new(None),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .saturating_add(1)
    }

    fn on_write(&self) {
        let now = self.now();
        let _ = self
            .waiting_since
            .compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn on_read(&self) {
        self.waiting_since.store(0, Ordering::Relaxed);
    }

    /// How long a response has been pending without a single byte.
    pub(super) fn silence(&self) -> Duration {
        match self.waiting_since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis(self.now().saturating_sub(since)),
        }
    }

    /// The error that ended the connection, if one was recorded and not yet taken.
    pub(super) fn take_failure(&self) -> Option<io::Error> {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.take()
    }

    fn record_failure<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| {
            let copy = match tenure_tls::failure(error) {
                Some(tls) => io::Error::new(error.kind(), tls.clone()),
                None => io::Error::new(error.kind(), error.to_string()),
            };
            let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            failure.get_or_insert(copy);
        })
    }
}

/// A stream that keeps its [`Liveness`] up to date.
#[derive(Debug)]
pub(super) struct MonitoredStream {
    raw: RawStream,
    liveness: Arc<Liveness>,
}

impl MonitoredStream {
    pub(super) const fn new(raw: RawStream, liveness: Arc<Liveness>) -> Self {
        Self { raw, liveness }
    }
}

impl AsyncRead for MonitoredStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = ready!(match &mut self.raw {
            RawStream::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            RawStream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            RawStream::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        });
        if buffer.filled().len() > before {
            self.liveness.on_read();
        } else if result.is_ok() {
            let _ = self
                .liveness
                .record_failure::<()>(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        Poll::Ready(self.liveness.record_failure(result))
    }
}

impl AsyncWrite for MonitoredStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // Recorded before the write: by the time a slow write returns, the reply may have been
        // read.
        self.liveness.on_write();
        let result = ready!(match &mut self.raw {
            RawStream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            RawStream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            RawStream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        });
        Poll::Ready(self.liveness.record_failure(result))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(match &mut self.raw {
            RawStream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            RawStream::Tls(stream) => Pin::new(stream).poll_flush(cx),
            RawStream::Unix(stream) => Pin::new(stream).poll_flush(cx),
        });
        Poll::Ready(self.liveness.record_failure(result))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.raw {
            RawStream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            RawStream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            RawStream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
