//! The record of the last token on the fast path.

use std::time::Duration;

use redis::{Connection, RedisResult};
use tenure_core::{
    id::{AttemptId, ClientId},
    name::{LockName, Namespace},
    request::{Enqueue, Owner},
};
use tenure_test_servers::redis::Server;

use crate::{
    keys::{KeySpace, LockKeys},
    transport::ScriptCall,
};

struct Lock {
    connection: Connection,
    keys: LockKeys,
}

impl Lock {
    fn enqueue(&mut self) -> RedisResult<String> {
        let name = LockName::new("any").unwrap();
        let owner = Owner::new("label", "host", 7);
        let ttl = Duration::from_secs(30);
        let request = Enqueue::new(name, AttemptId::from_u128(1), owner, ttl, true);
        let call = crate::scripts::enqueue_call(&self.keys, &request, ClientId::from_u128(2), "0");
        let command = ScriptCall::command([&call].into_iter(), true);
        let mut answers: Vec<String> = command.query(&mut self.connection)?;
        Ok(answers.remove(0))
    }

    /// Stores a record with a TTL of one minute and frees the lock.
    fn set_last_token(&mut self, record: &str) {
        let (holder, fence) = (&self.keys.holder, self.keys.last_token());
        redis::pipe()
            .cmd("DEL")
            .arg(holder)
            .cmd("SET")
            .arg(fence)
            .arg(record)
            .arg("PX")
            .arg(60_000)
            .exec(&mut self.connection)
            .unwrap();
    }

    /// The record, its TTL in milliseconds, and whether the lock is held.
    fn state(&mut self) -> (String, i64, bool) {
        let (holder, fence) = (&self.keys.holder, self.keys.last_token());
        redis::pipe()
            .cmd("GET")
            .arg(&fence)
            .cmd("PTTL")
            .arg(&fence)
            .cmd("EXISTS")
            .arg(holder)
            .query(&mut self.connection)
            .unwrap()
    }
}

#[test]
fn t1_last_token_record_rises_and_malformed_one_is_kept() {
    let server = Server::builder().start().unwrap();
    let redis = redis::Client::open(server.url()).unwrap();
    let mut lock = Lock {
        connection: redis.get_connection().unwrap(),
        keys: KeySpace::new(&Namespace::default())
            .lock(&LockName::new("any").unwrap(), false)
            .unwrap(),
    };
    let first: u64 = lock.enqueue().unwrap().parse().unwrap();
    let (record, ttl_ms, held) = lock.state();
    assert_eq!((record, held), (format!("tenure/1 {first}"), true));
    assert!(ttl_ms > 86_000_000, "{ttl_ms}");

    // An old record: the new one lives for another day.
    lock.set_last_token(&format!("tenure/1 {}", first - 2_000_000_000));
    let token: u64 = lock.enqueue().unwrap().parse().unwrap();
    assert!(token > first);
    assert!(lock.state().1 > 86_000_000);

    // How the last grant ended is kept.
    let ended = "0123456789abcdef0123456789abcdef expired";
    lock.set_last_token(&format!("tenure/1 {token} {ended}"));
    let token = lock.enqueue().unwrap();
    let (record, ttl_ms, _) = lock.state();
    assert_eq!(record, format!("tenure/1 {token} {ended}"));
    assert!(ttl_ms > 86_000_000, "{ttl_ms}");

    // A record that is a day ahead of the clock: the next token is one more, and the record lives
    // for a day after the clock has caught up.
    let ahead = first + 86_400_000_000;
    lock.set_last_token(&format!("tenure/1 {ahead}"));
    assert_eq!(lock.enqueue().unwrap(), (ahead + 1).to_string());
    let (record, ttl_ms, _) = lock.state();
    assert_eq!(record, format!("tenure/1 {}", ahead + 1));
    assert!((172_700_000..=172_800_000).contains(&ttl_ms), "{ttl_ms}");

    // S2: a malformed record is an error that changes nothing, however similar it is to a valid
    // one.
    for malformed in [
        "tenure/1 123456789012345x",
        "tenure/1 0999999999999999",
        "tenure/1 1234567890123456 x",
        "nonsense",
        "tenure/2 1234567890123456",
    ] {
        lock.set_last_token(malformed);
        let error = lock.enqueue().unwrap_err().to_string();
        assert!(error.contains(&lock.keys.last_token()), "{error}");
        let (record, ttl_ms, held) = lock.state();
        assert_eq!((record.as_str(), held), (malformed, false));
        assert!(ttl_ms <= 60_000, "{ttl_ms}");
    }
}
