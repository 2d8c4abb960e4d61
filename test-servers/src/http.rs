//! Plain HTTP requests to a server of this machine.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use crate::Error;

/// Returns the body of the response to `GET path`. Each step takes at most `timeout`.
pub(crate) fn get(port: u16, path: &str, timeout: Duration) -> Result<String, Error> {
    let failed = |why: String| Error::new(format!("http://127.0.0.1:{port}{path}: {why}"));
    let answer = ask(port, path, timeout).map_err(|error| failed(error.to_string()))?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| failed("the answer is not HTTP".to_owned()))?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) == Some("200") {
        Ok(body.to_owned())
    } else {
        Err(failed(format!("{status}: {}", body.trim_end())))
    }
}

fn ask(port: u16, path: &str, timeout: Duration) -> io::Result<String> {
    // With HTTP/1.0 the response is not chunked, and the connection ends with it.
    let question = format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n");
    exchange(port, question.as_bytes(), timeout)
}

/// Sends `question` and reads until the server closes the connection.
pub(crate) fn exchange(port: u16, question: &[u8], timeout: Duration) -> io::Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.write_all(question)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    fn answer_of(answer: &'static str) -> Result<String, Error> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = [0; 256];
            let length = stream.read(&mut question).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&question[..length]).into_owned()
        });
        let found = get(port, "/health", Duration::from_secs(10));
        assert!(server.join().unwrap().starts_with("GET /health HTTP/1.0"));
        found
    }

    #[test]
    fn body_is_returned_and_a_refusal_is_an_error() {
        let body = answer_of("HTTP/1.0 200 OK\r\nX: y\r\n\r\n{\"health\":\"true\"}").unwrap();
        assert_eq!(body, "{\"health\":\"true\"}");
        let refused = answer_of("HTTP/1.0 503 Service Unavailable\r\n\r\nno leader\n").unwrap_err();
        assert!(
            refused
                .to_string()
                .ends_with("HTTP/1.0 503 Service Unavailable: no leader"),
            "{refused}"
        );
        answer_of("what?").unwrap_err();
    }
}
