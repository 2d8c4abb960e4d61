//! Callers that are cancelled at any moment.

use super::*;

/// Slow enough for callers to be cancelled before the reply.
static LATE_ECHO: LazyLock<Script> = LazyLock::new(|| {
    Script::new("local n = 0 for i = 1, 20000 do n = n + i end return ARGV[1]".to_owned())
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a4_replies_match_their_calls_when_callers_are_cancelled() {
    let server = Server::builder().start().unwrap();
    let Opened { transport, events } = open(&server.url(), Options::default()).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..400_u64 {
        let transport = Arc::clone(&transport);
        tasks.spawn(async move {
            let args: Vec<_> = (0..3).map(|part| format!("{n}.{part}")).collect();
            let calls: Vec<_> = args
                .iter()
                .map(|arg| call(&LATE_ECHO, "k", &[arg]))
                .collect();
            let mut answers = Vec::new();
            let work = async {
                match n % 3 {
                    0 => answers.push((0, transport.call(calls[0].clone()).await)),
                    1 => {
                        let hear = &mut |index, answer, _| answers.push((index, answer));
                        transport.call_all(calls, None, hear).await;
                    }
                    _ => {
                        let timeout = Duration::from_millis(1);
                        let all = call_replicated(&transport, calls, 0, timeout).await;
                        let all = all.into_iter().map(|(answer, _)| answer);
                        answers.extend(all.enumerate());
                    }
                }
            };
            // A third of the callers is cancelled, immediately or a little later.
            let timeout = match n % 9 {
                0..3 => Duration::from_micros(n * 50),
                _ => TEST_TIMEOUT,
            };
            let left = tokio::time::timeout(timeout, work).await.is_err();
            for (index, answer) in answers {
                let Ok(Value::BulkString(text)) = answer else {
                    panic!("{answer:?}");
                };
                assert_eq!(String::from_utf8(text).unwrap(), args[index]);
            }
            left
        });
    }
    let mut left = 0;
    while let Some(gone) = tasks.join_next().await {
        left += usize::from(gone.unwrap());
    }
    assert!(left > 20, "{left} callers were cancelled");
    assert_eq!(events.count("down"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k1_concurrent_calls_share_one_wait_for_replicas() {
    let server = Server::builder().start().unwrap();
    let Opened { transport, .. } = open(&server.url(), Options::default()).await.unwrap();
    let timeout = Duration::from_millis(200);
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..100 {
        let transport = Arc::clone(&transport);
        tasks.spawn(async move {
            let calls = vec![count(&format!("k{n}"))];
            call_replicated(&transport, calls, 1, timeout).await
        });
    }
    while let Some(answers) = tasks.join_next().await {
        let answers = answers.unwrap();
        assert_eq!((expect_int(answers[0].0.clone()), answers[0].1), (1, 0));
    }
    // One after the other, they would take 20 s.
    assert!(begun.elapsed() < Duration::from_secs(5));
}
