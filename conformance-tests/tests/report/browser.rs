//! Headless Chromium, and a proxy that records its requests.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

/// Finds the program. With `CONFORMANCE_STRICT` a missing browser fails the test.
pub(crate) fn find() -> Option<&'static str> {
    let found = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| {
            let mut version = Command::new(name);
            version
                .arg("--version")
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            version.status().is_ok_and(|status| status.success())
        });
    if found.is_none() {
        let strict = std::env::var_os("CONFORMANCE_STRICT").is_some_and(|value| value != "0");
        assert!(
            !strict,
            "there is no browser; install chromium (Debian: apt-get install chromium)"
        );
        eprintln!(
            "NOT TESTED: the page in a browser; install chromium (Debian: apt-get install chromium)"
        );
    }
    found
}

/// The result of showing a page.
pub(crate) struct Shown {
    /// The resulting document as HTML.
    pub(crate) dom: String,
    /// The first line of each request of the browser.
    pub(crate) requests: Vec<String>,
}

/// Shows a page in a window of the given width, in light or dark colours.
pub(crate) fn show(browser: &str, page: &Path, width: u32, dark: bool) -> Shown {
    let profile = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let requests: Arc<Mutex<Vec<String>>> = Arc::default();
    let taken = Arc::clone(&requests);
    // The thread ends with the process: after the end of the browser there are no requests.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut line = String::new();
            let _ = BufReader::new(&stream).read_line(&mut line);
            taken.lock().unwrap().push(line);
            let _ = (&stream)
                .write_all(b"HTTP/1.1 502 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    let output = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--dump-dom",
            "--proxy-bypass-list=<-loopback>",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--proxy-server=http://127.0.0.1:{port}"))
        .arg(format!("--window-size={width},1000"))
        .arg(format!(
            "--blink-settings=preferredColorScheme={}",
            u8::from(!dark)
        ))
        .arg(format!("file://{}", page.display()))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "the browser ended with {}",
        output.status
    );
    let dom = String::from_utf8(output.stdout).unwrap();
    let requests = requests.lock().unwrap().clone();
    Shown { dom, requests }
}
