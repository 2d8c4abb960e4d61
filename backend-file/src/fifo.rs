//! Wake-up messages: one FIFO for each connected client, named after its id.
//!
//! A client that makes a waiter the holder writes the lock's name into the FIFO of that waiter's
//! client. A message has fewer than `PIPE_BUF` bytes, so it arrives completely or not at all. A
//! lost message costs only time: the waiter's next report finds the grant.

use std::{collections::VecDeque, os::fd::AsFd};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags},
    io::Errno,
};
use tenure_core::{cas::Wake, id::ClientId, name::LockName};
use tokio::{net::unix::pipe::Receiver, sync::Mutex};

use crate::{
    FileStore,
    config::Options,
    dir_handle::{DirHandle, PinnedEntry},
    paths::{self, FIFO_DIR},
    root,
};

const WAKING: &str = "waking a waiter";

/// If more bytes than this are unread, the pipe (64 KiB) may have been full and messages may be
/// lost.
const OVERFLOW_THRESHOLD: usize = 32 << 10;
/// Size of a directory up to which each client that connects looks for stale FIFOs. On ext4 it has
/// room for 80.
const SMALL_DIR_BYTES: u64 = 4096;
/// Maximum length of a message.
const MAX_MESSAGE_BYTES: usize = 4096;

/// This client's FIFO. Dropping it removes the file.
#[derive(Debug)]
pub(crate) struct ClientFifo {
    dir: DirHandle,
    name: String,
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
    pub(crate) fn open(
        dir: DirHandle,
        client: ClientId,
        options: Options,
    ) -> std::io::Result<Self> {
        let name = client.to_string();
        let temporary = format!(".new.{client}");
        let mut last = std::io::Error::from(Errno::NOENT);
        for _ in 0..5 {
            match create_reader(&dir, &temporary, &name, options) {
                Ok(receiver) => {
                    return Ok(Self {
                        dir,
                        name,
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
                    let _ = fs::unlinkat(&dir, &temporary, AtFlags::empty());
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
        let _ = fs::unlinkat(&self.dir, &self.name, AtFlags::empty());
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

fn create_reader(
    dir: &DirHandle,
    temporary: &str,
    name: &str,
    options: Options,
) -> std::io::Result<Receiver> {
    let mode = Mode::from_raw_mode(options.file_mode() as _);
    match fs::mkfifoat(dir, temporary, mode) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let entry = PinnedEntry::new(dir.as_fd(), temporary)?;
    if let Some(what) = entry.refusal(FileType::Fifo) {
        return Err(std::io::Error::other(what));
    }
    // Also open for writing, so that the reader does not see an end of file when a writer closes.
    let fd = entry.open(OFlags::RDWR)?;
    if options.shared {
        // The process's umask may have removed the group's permissions.
        fs::fchmod(&fd, mode)?;
    }
    let receiver = Receiver::from_owned_fd(fd)?;
    fs::renameat(dir, temporary, dir, name)?;
    Ok(receiver)
}

/// Writes a lock's name into a client's FIFO, if the client has one.
pub(crate) fn send(store: &FileStore, client: ClientId, name: &LockName) {
    let dir = match root::open_below(store, &[FIFO_DIR.to_owned()], WAKING) {
        Ok(Some(dir)) => dir,
        Ok(None) => return,
        Err(error) => {
            tracing::debug!(%error, "cannot wake a waiter, which relies on its reports");
            return;
        }
    };
    let fifo = client.to_string();
    let Ok(entry) = PinnedEntry::new(dir.as_fd(), &fifo) else {
        return;
    };
    if entry.refusal(FileType::Fifo).is_some() {
        return;
    }
    // Also open for reading, so that a reader that disappears in the meantime causes no signal.
    if let Ok(fd) = entry.open(OFlags::RDWR) {
        let line = format!("{}\n", paths::encode(name.as_str()));
        // If the FIFO is full, its client rechecks all its locks anyway.
        let _ = rustix::io::write(&fd, line.as_bytes());
    }
}

/// Removes the FIFOs that have no reader.
///
/// In a large directory only few of the clients that connect do it. Otherwise a thousand clients
/// would open a million FIFOs.
pub(crate) fn remove_stale(dir: &DirHandle) {
    let size = fs::fstat(dir).map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or_default());
    let clients_per_removal = (size / SMALL_DIR_BYTES).saturating_pow(2).max(1);
    let is_chosen = ClientId::random()
        .is_ok_and(|random| random.as_u128() % u128::from(clients_per_removal) == 0);
    if !is_chosen {
        return;
    }
    for name in dir.names().unwrap_or_default() {
        let Ok(name) = name.to_str() else { continue };
        let Ok(entry) = PinnedEntry::new(dir.as_fd(), name) else {
            continue;
        };
        if entry.refusal(FileType::Fifo).is_none()
            && entry
                .open(OFlags::WRONLY)
                .is_err_and(|errno| errno == Errno::NXIO)
        {
            let _ = fs::unlinkat(dir, name, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fifo_store() -> (tempfile::TempDir, FileStore) {
        let root = tempfile::tempdir().unwrap();
        let store = FileStore::new(root.path());
        (root, store)
    }

    fn open(store: &FileStore, client: ClientId) -> ClientFifo {
        let dir = root::prepare(store).unwrap();
        ClientFifo::open(dir, client, Options::default()).unwrap()
    }

    #[tokio::test]
    async fn messages_arrive_and_invalid_ones_are_ignored() {
        let (root, store) = fifo_store();
        let client = ClientId::from_u128(1);
        let fifo = open(&store, client);
        let longest = LockName::new("\u{1f512}".repeat(128)).unwrap();
        let path = root.path().join(FIFO_DIR).join(client.to_string());
        std::fs::write(&path, b"a/b\n\xff\n\n%2\n").unwrap();
        send(&store, client, &longest);
        assert_eq!(fifo.next().await, Wake::Lock(longest.clone()));
        for _ in 0..100 {
            send(&store, client, &longest);
        }
        assert_eq!(fifo.next().await, Wake::Everything);
        assert_eq!(fifo.next().await, Wake::Lock(longest));
    }

    #[tokio::test]
    async fn only_fifos_without_a_reader_are_removed() {
        let (root, store) = fifo_store();
        let live = open(&store, ClientId::from_u128(1));
        let dir = root.path().join(FIFO_DIR);
        fs::mkfifoat(fs::CWD, dir.join("dead"), Mode::RUSR | Mode::WUSR).unwrap();
        let name = LockName::new("a").unwrap();
        send(&store, ClientId::from_u128(2), &name);
        remove_stale(&root::prepare(&store).unwrap());
        let left: Vec<_> = std::fs::read_dir(&dir).unwrap().flatten().collect();
        assert_eq!(left.len(), 1);
        drop(live);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
    }
}
