//! Single requests of a client that follows no recipe.

use tenure_test_servers::zookeeper::Server;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const CREATE: i32 = 1;
const SET_DATA: i32 = 5;
const SET_ACL: i32 = 7;
const CHILDREN: i32 = 8;
const PERSISTENT_SEQUENTIAL: i32 = 2;

pub(crate) const READ: i32 = 1;
pub(crate) const DELETE: i32 = 8;
pub(crate) const ALL: i32 = 31;

fn text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend(i32::try_from(text.len()).unwrap().to_be_bytes());
    out.extend(text);
}

fn rights(out: &mut Vec<u8>, rights: i32) {
    out.extend(1_i32.to_be_bytes());
    out.extend(rights.to_be_bytes());
    text(out, b"world");
    text(out, b"anyone");
}

async fn frame(stream: &mut TcpStream, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, body);
    stream.write_all(&out).await.unwrap();
    let length = stream.read_i32().await.unwrap();
    let mut answer = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut answer).await.unwrap();
    answer
}

/// One request in a session of its own; the error's number if it is refused.
async fn call(server: &Server, op: i32, record: &[u8]) -> Result<Vec<u8>, i32> {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let mut hello = vec![0; 12];
    hello.extend(2000_i32.to_be_bytes());
    hello.extend([0; 8]);
    text(&mut hello, &[0; 16]);
    hello.push(0);
    frame(&mut stream, &hello).await;
    let mut request = 1_i32.to_be_bytes().to_vec();
    request.extend(op.to_be_bytes());
    request.extend(record);
    let answer = frame(&mut stream, &request).await;
    match i32::from_be_bytes(answer[12..16].try_into().unwrap()) {
        0 => Ok(answer[16..].to_vec()),
        error => Err(error),
    }
}

async fn create(server: &Server, path: &str, granted: i32, flags: i32) -> String {
    let mut record = Vec::new();
    text(&mut record, path.as_bytes());
    text(&mut record, b"somebody");
    rights(&mut record, granted);
    record.extend(flags.to_be_bytes());
    let made = call(server, CREATE, &record).await.unwrap();
    String::from_utf8(made[4..].to_vec()).unwrap()
}

/// Creates a persistent node.
pub(crate) async fn make(server: &Server, path: &str, granted: i32) {
    create(server, path, granted, 0).await;
}

/// Creates a persistent contender; returns its path.
pub(crate) async fn contend(server: &Server, lock: &str) -> String {
    contend_as(server, lock, "x-lock-").await
}

/// The same, with a name that begins in this way.
pub(crate) async fn contend_as(server: &Server, lock: &str, prefix: &str) -> String {
    let path = format!("{lock}/{prefix}");
    create(server, &path, ALL, PERSISTENT_SEQUENTIAL).await
}

/// Sets the access rights of a node.
pub(crate) async fn grant(server: &Server, path: &str, granted: i32) {
    let mut record = Vec::new();
    text(&mut record, path.as_bytes());
    rights(&mut record, granted);
    record.extend((-1_i32).to_be_bytes());
    call(server, SET_ACL, &record).await.unwrap();
}

/// The children of a node.
pub(crate) async fn children(server: &Server, path: &str) -> Vec<String> {
    let mut record = Vec::new();
    text(&mut record, path.as_bytes());
    record.push(0);
    let answer = call(server, CHILDREN, &record).await.unwrap();
    let int = |at: usize| i32::from_be_bytes(answer[at..at + 4].try_into().unwrap());
    let mut at = 4;
    let mut names = Vec::new();
    for _ in 0..int(0) {
        let length = usize::try_from(int(at)).unwrap();
        names.push(String::from_utf8(answer[at + 4..at + 4 + length].to_vec()).unwrap());
        at += 4 + length;
    }
    names
}

/// Overwrites a node's data.
pub(crate) async fn write_over(server: &Server, path: &str, data: &[u8]) {
    let mut record = Vec::new();
    text(&mut record, path.as_bytes());
    text(&mut record, data);
    record.extend((-1_i32).to_be_bytes());
    call(server, SET_DATA, &record).await.unwrap();
}

/// Deletes a node.
pub(crate) async fn delete(server: &Server, path: &str) {
    let mut record = Vec::new();
    text(&mut record, path.as_bytes());
    record.extend((-1_i32).to_be_bytes());
    call(server, 2, &record).await.unwrap();
}
