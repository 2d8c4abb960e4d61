//! Each fault on a server that echoes and counts lines.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{Instant, timeout},
};

use super::{Fault, Line, Proxies};

/// The time in which no data must arrive; data would arrive earlier.
const SILENCE: Duration = Duration::from_millis(150);
/// The time limit for expected data on a busy machine.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(10);

struct Fixture {
    proxies: Proxies,
    arrived: Arc<AtomicUsize>,
}

impl Fixture {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let arrived = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&arrived);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    let (reading, mut writing) = stream.into_split();
                    let mut lines = BufReader::new(reading).lines();
                    while let Ok(Some(line)) = lines.next_line().await {
                        count.fetch_add(1, Ordering::SeqCst);
                        let _ = writing.write_all(format!("{line}\n").as_bytes()).await;
                    }
                });
            }
        });
        let proxies = Proxies::start([address.to_string()]).await.unwrap();
        Self { proxies, arrived }
    }

    async fn client(&self) -> Client {
        let stream = TcpStream::connect(self.proxies.addresses()[0]).await;
        let (reading, writing) = stream.unwrap().into_split();
        Client {
            lines: BufReader::new(reading).lines(),
            writing,
        }
    }

    async fn until_arrived(&self, count: usize) {
        let all = async {
            while self.arrived.load(Ordering::SeqCst) < count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(ARRIVAL_TIMEOUT, all).await.unwrap();
    }
}

struct Client {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writing: OwnedWriteHalf,
}

impl Client {
    async fn send(&mut self, line: &str) -> io::Result<()> {
        self.writing.write_all(format!("{line}\n").as_bytes()).await
    }

    async fn hear(&mut self) -> io::Result<Option<String>> {
        timeout(ARRIVAL_TIMEOUT, self.lines.next_line())
            .await
            .unwrap()
    }

    async fn hears_nothing(&mut self) {
        let heard = timeout(SILENCE, self.lines.next_line()).await;
        assert!(heard.is_err(), "{heard:?}");
    }

    async fn echoes(&mut self, line: &str) {
        self.send(line).await.unwrap();
        assert_eq!(self.hear().await.unwrap().as_deref(), Some(line));
    }
}

#[tokio::test]
async fn without_a_fault_all_data_passes_without_effects() {
    let fixture = Fixture::new().await;
    let mut client = fixture.client().await;
    client.echoes("a").await;
    client.echoes(&"x".repeat(1 << 20)).await;
    assert_eq!(fixture.proxies.effects(), 0);
    assert_eq!(
        fixture.proxies.list(),
        fixture.proxies.addresses()[0].to_string()
    );
}

#[tokio::test]
async fn black_hole_holds_data_until_it_ends() {
    let fixture = Fixture::new().await;
    let mut client = fixture.client().await;
    client.echoes("a").await;
    fixture.proxies.set(Fault::BlackHole);
    client.send("b").await.unwrap();
    client.hears_nothing().await;
    assert_eq!(fixture.arrived.load(Ordering::SeqCst), 1);
    assert!(fixture.proxies.effects() > 0);
    fixture.proxies.set(Fault::None);
    assert_eq!(client.hear().await.unwrap().as_deref(), Some("b"));
}

#[tokio::test]
async fn held_direction_does_not_block_the_other_direction() {
    let fixture = Fixture::new().await;
    let mut client = fixture.client().await;
    fixture.proxies.set(Fault::HoldReplies);
    client.send("a").await.unwrap();
    fixture.until_arrived(1).await;
    client.hears_nothing().await;
    fixture.proxies.set(Fault::HoldRequests);
    assert_eq!(client.hear().await.unwrap().as_deref(), Some("a"));
    client.send("b").await.unwrap();
    client.hears_nothing().await;
    assert_eq!(fixture.arrived.load(Ordering::SeqCst), 1);
    fixture.proxies.set(Fault::None);
    assert_eq!(client.hear().await.unwrap().as_deref(), Some("b"));
}

#[tokio::test]
async fn lost_reply_belongs_to_an_executed_request_and_ends_its_connection_only() {
    let fixture = Fixture::new().await;
    let (mut client, mut other) = (fixture.client().await, fixture.client().await);
    client.echoes("a").await;
    other.echoes("b").await;
    fixture.proxies.set(Fault::LoseReplies);
    client.send("c").await.unwrap();
    let end = client.hear().await;
    assert!(matches!(end, Ok(None) | Err(_)), "{end:?}");
    assert_eq!(fixture.arrived.load(Ordering::SeqCst), 3);
    assert_eq!(fixture.proxies.effects(), 1);
    fixture.proxies.set(Fault::None);
    other.echoes("d").await;
}

#[tokio::test]
async fn refusal_ends_open_and_new_connections() {
    let fixture = Fixture::new().await;
    let mut client = fixture.client().await;
    client.echoes("a").await;
    fixture.proxies.set(Fault::Refuse);
    let end = client.hear().await;
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let mut again = fixture.client().await;
    let end = again.hear().await;
    assert!(matches!(end, Ok(None) | Err(_)), "{end:?}");
    fixture.proxies.set(Fault::None);
    fixture.client().await.echoes("b").await;
}

#[tokio::test]
async fn reset_ends_open_connections() {
    let fixture = Fixture::new().await;
    let mut client = fixture.client().await;
    client.echoes("a").await;
    fixture.proxies.reset();
    let end = client.hear().await;
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    fixture.client().await.echoes("b").await;
}

#[tokio::test]
async fn delay_does_not_depend_on_the_data_in_flight() {
    let fixture = Fixture::new().await;
    let mut client = fixture.client().await;
    let delay = Duration::from_millis(200);
    fixture.proxies.set(Fault::Delay(delay));
    let begin = Instant::now();
    for number in 0..20 {
        client.send(&number.to_string()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for number in 0..20 {
        let heard = client.hear().await.unwrap();
        assert_eq!(heard.as_deref(), Some(&*number.to_string()));
    }
    let took = begin.elapsed();
    assert!(took >= delay * 2, "{took:?}");
    assert!(
        took < delay * 20,
        "they waited one after the other: {took:?}"
    );
}
