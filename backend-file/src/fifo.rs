//! Wake-up messages: one FIFO for each connected client, named after its id.
//!
//! A client that makes a waiter the holder writes the lock's name into the FIFO of that waiter's
//! client. A message has fewer than `PIPE_BUF` bytes, so it arrives completely or not at all. A
//! lost message costs only time: the waiter's next report finds the grant.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, CWD, FileType, Mode, OFlags},
    io::Errno,
};
use tenure_core::{cas::Wake, id::ClientId, name::LockName};
use tokio::{
    net::unix::pipe::{OpenOptions, Receiver},
    sync::Mutex,
};

use crate::{
    config::Options,
    paths::{self, FIFO_DIR},
};

/// If more bytes than this are unread, the pipe (64 KiB) may have been full and messages may be
/// lost.
const OVERFLOW_THRESHOLD: usize = 32 << 10;
/// Maximum length of a message.
const MAX_MESSAGE_BYTES: usize = 4096;

/// This client's FIFO. Dropping it removes the file.
#[derive(Debug)]
pub(crate) struct ClientFifo {
    path: PathBuf,
    reader: Mutex<MessageReader>,
}

#[derive(Debug)]
struct MessageReader {
    receiver: Receiver,
    partial: Vec<u8>,
    ready: VecDeque<Wake>,
}

impl ClientFifo {
    /// Creates the FIFO. It receives its name only once it has a reader, so a FIFO without a reader
    /// is stale and any process may remove it.
    pub(crate) fn open(root: &Path, client: ClientId, options: Options) -> std::io::Result<Self> {
        let dir = root.join(FIFO_DIR);
        let path = dir.join(client.to_string());
        let temporary = dir.join(format!(".new.{client}"));
        let mut last = std::io::Error::from(Errno::NOENT);
        for _ in 0..5 {
            match create_reader(&temporary, &path, options) {
                Ok(receiver) => {
                    return Ok(Self {
                        path,
                        reader: Mutex::new(MessageReader {
                            receiver,
                            partial: Vec::new(),
                            ready: VecDeque::new(),
                        }),
                    });
                }
                // Another process removed it as stale before it had a reader.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => last = error,
                Err(error) => {
                    let _ = std::fs::remove_file(&temporary);
                    return Err(error);
                }
            }
        }
        Err(last)
    }

    /// Waits for the next message.
    ///
    /// # Cancel safety
    ///
    /// No message is lost.
    pub(crate) async fn next(&self) -> Wake {
        let mut reader = self.reader.lock().await;
        loop {
            if let Some(wake) = reader.ready.pop_front() {
                return wake;
            }
            if let Err(error) = reader.receiver.readable().await {
                tracing::debug!(%error, "cannot wait for the FIFO; waiters rely on their reports");
                return std::future::pending().await;
            }
            reader.read_available();
        }
    }
}

impl Drop for ClientFifo {
    fn drop(&mut self) {
        // If this fails, the next client that connects removes it.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl MessageReader {
    /// Reads all available messages.
    fn read_available(&mut self) {
        let mut buffer = vec![0; 2 * OVERFLOW_THRESHOLD];
        // An error means that no message is available; the caller waits again.
        let Ok(count) = self.receiver.try_read(&mut buffer) else {
            return;
        };
        self.partial.extend_from_slice(&buffer[..count]);
        if count >= OVERFLOW_THRESHOLD {
            self.ready.push_back(Wake::Everything);
        }
        while let Some(end) = self.partial.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            // Messages are untrusted.
            let name = std::str::from_utf8(&line[..end])
                .ok()
                .and_then(paths::decode)
                .and_then(|text| LockName::new(text).ok());
            let wake = name.map(Wake::Lock);
            if let Some(wake) = wake.filter(|wake| !self.ready.contains(wake)) {
                self.ready.push_back(wake);
            }
        }
        if self.partial.len() > MAX_MESSAGE_BYTES {
            self.partial.clear();
        }
    }
}

fn create_reader(temporary: &Path, path: &Path, options: Options) -> std::io::Result<Receiver> {
    let mode = Mode::from_raw_mode(options.file_mode() as _);
    match fs::mkfifoat(CWD, temporary, mode) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    if options.shared {
        fs::chmodat(CWD, temporary, mode, fs::AtFlags::empty())?;
    }
    // Also open for writing, so that the reader does not see an end of file when a writer closes.
    let receiver = OpenOptions::new()
        .read_write(true)
        .open_receiver(temporary)?;
    std::fs::rename(temporary, path)?;
    Ok(receiver)
}

/// Writes a lock's name into a client's FIFO, if the client has one.
pub(crate) fn send(root: &Path, client: ClientId, name: &LockName) {
    let path = root.join(FIFO_DIR).join(client.to_string());
    // Also open for reading, so that a reader that disappears in the meantime causes no signal.
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(fd) = fs::open(&path, flags, Mode::empty()) else {
        return;
    };
    let is_fifo =
        fs::fstat(&fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
    if is_fifo {
        let line = format!("{}\n", paths::encode(name.as_str()));
        // If the FIFO is full, its client rechecks all its locks anyway.
        let _ = rustix::io::write(&fd, line.as_bytes());
    }
}

/// Removes the FIFOs that have no reader.
pub(crate) fn remove_stale(root: &Path) {
    let Ok(entries) = std::fs::read_dir(root.join(FIFO_DIR)) else {
        return;
    };
    for entry in entries.flatten() {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let reader = fs::open(entry.path(), flags, Mode::empty());
        if reader.is_err_and(|errno| errno == Errno::NXIO) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fifo_root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(FIFO_DIR)).unwrap();
        root
    }

    #[tokio::test]
    async fn messages_arrive_and_invalid_ones_are_ignored() {
        let root = fifo_root();
        let client = ClientId::from_u128(1);
        let fifo = ClientFifo::open(root.path(), client, Options::default()).unwrap();
        let longest = LockName::new("\u{1f512}".repeat(128)).unwrap();
        let path = root.path().join(FIFO_DIR).join(client.to_string());
        std::fs::write(&path, b"a/b\n\xff\n\n%2\n").unwrap();
        send(root.path(), client, &longest);
        assert_eq!(fifo.next().await, Wake::Lock(longest.clone()));
        for _ in 0..100 {
            send(root.path(), client, &longest);
        }
        assert_eq!(fifo.next().await, Wake::Everything);
        assert_eq!(fifo.next().await, Wake::Lock(longest));
    }

    #[tokio::test]
    async fn only_fifos_without_a_reader_are_removed() {
        let root = fifo_root();
        let dir = root.path().join(FIFO_DIR);
        let live =
            ClientFifo::open(root.path(), ClientId::from_u128(1), Options::default()).unwrap();
        fs::mkfifoat(CWD, dir.join("dead"), Mode::RUSR | Mode::WUSR).unwrap();
        send(
            root.path(),
            ClientId::from_u128(2),
            &LockName::new("a").unwrap(),
        );
        remove_stale(root.path());
        let left: Vec<_> = std::fs::read_dir(&dir).unwrap().flatten().collect();
        assert_eq!(left.len(), 1);
        drop(live);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
    }
}
