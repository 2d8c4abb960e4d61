//! Items that are asked at once.

use super::*;

/// Answers each item with its word, how many there are, and what is for all; fails for `wrong`.
static DESCRIBE_ITEMS: LazyLock<Script> = LazyLock::new(|| {
    Script::batchable(
        "local answers = {} \
         for item = 1, #ARGV - 1 do \
           answers[item] = ARGV[item + 1] .. ' of ' .. #ARGV - 1 .. ' ' .. ARGV[1] .. ' ' .. KEYS[item] \
           if ARGV[item + 1] == 'wrong' then answers[item] = {err = 'NEWER 7 k'} end \
         end \
         return answers"
            .to_owned(),
    )
});
/// Counts an item, and then fails for `wrong`.
static COUNT_THEN_FAIL: LazyLock<Script> = LazyLock::new(|| {
    Script::batchable(
        "local answers = {} \
         for item = 1, #ARGV - 1 do \
           answers[item] = redis.call('INCR', KEYS[item]) \
           if ARGV[item + 1] == 'wrong' then error('in the middle') end \
         end \
         return answers"
            .to_owned(),
    )
});

/// All at once: the first is sent by itself, and the others come while it is under way.
async fn call_concurrently(transport: &Transport, calls: Vec<ScriptCall>) -> Vec<CallResult> {
    let mut tasks: Vec<_> = calls
        .into_iter()
        .map(|call| Box::pin(transport.call(call)))
        .collect();
    let mut answers: Vec<Option<CallResult>> = tasks.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (task, answer) in tasks.iter_mut().zip(&mut answers) {
            if answer.is_none()
                && let std::task::Poll::Ready(ready) = task.as_mut().poll(context)
            {
                *answer = Some(ready);
            }
        }
        match answers.iter().all(Option::is_some) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    answers.into_iter().flatten().collect()
}

fn texts(answers: Vec<CallResult>) -> Vec<String> {
    answers
        .into_iter()
        .map(|answer| match answer {
            Ok(Value::BulkString(text)) => String::from_utf8(text).unwrap(),
            Ok(other) => format!("{other:?}"),
            Err(CallError::NotExecuted { code, .. }) => {
                format!("refused {}", code.unwrap_or_default())
            }
            Err(CallError::ScriptFailed { code, .. }) => format!("failed {code}"),
            Err(CallError::OutcomeUnknown(_)) => "unanswered".to_owned(),
        })
        .collect()
}

#[tokio::test]
async fn who_comes_while_another_is_under_way_is_asked_with_others() {
    let server = Server::builder().start().unwrap();
    let Opened { transport, .. } = open(&server.url(), Options::default()).await.unwrap();
    // The script is not known yet: each finds its way all the same.
    for _ in 0..2 {
        let calls = ["a", "b", "c", "d"].map(|word| call(&DESCRIBE_ITEMS, word, &["x", word]));
        let other = call(&DESCRIBE_ITEMS, "e", &["y", "e"]);
        let answers =
            call_concurrently(&transport, calls.into_iter().chain([other]).collect()).await;
        let known = ["a of 1 x a", "b of 3 x b", "c of 3 x c", "d of 3 x d"];
        let alone = ["a of 1 x a", "b of 1 x b", "c of 1 x c", "d of 1 x d"];
        let answers = texts(answers);
        assert!(
            answers[..4] == known || answers[..4] == alone,
            "{answers:?}"
        );
        assert_eq!(answers[4], "e of 1 y e");
        if answers[..4] == known {
            return;
        }
    }
    panic!("they were never asked together");
}

#[tokio::test]
async fn no_run_is_of_too_many() {
    let server = Server::builder().start().unwrap();
    let Opened { transport, .. } = open(&server.url(), Options::default()).await.unwrap();
    texts(
        call_concurrently(
            &transport,
            vec![call(&DESCRIBE_ITEMS, "k", &["x", "known"])],
        )
        .await,
    );
    let calls = (0..71).map(|n| call(&DESCRIBE_ITEMS, "k", &["x", &n.to_string()]));
    let answers = texts(call_concurrently(&transport, calls.collect()).await);
    for (n, answer) in answers.iter().enumerate() {
        let together = match n {
            0 => 1,
            1..65 => 32,
            _ => 6,
        };
        assert_eq!(*answer, format!("{n} of {together} x k"));
    }
}

#[tokio::test]
async fn an_item_that_fails_fails_alone() {
    let server = Server::builder().start().unwrap();
    let Opened { transport, .. } = open(&server.url(), Options::default()).await.unwrap();
    for _ in 0..2 {
        let calls =
            ["first", "a", "wrong", "b"].map(|word| call(&DESCRIBE_ITEMS, "k", &["x", word]));
        let answers = texts(call_concurrently(&transport, calls.into()).await);
        assert_eq!(answers[2], "failed NEWER");
        assert!(answers[1].starts_with("a of "), "{answers:?}");
        assert!(answers[3].starts_with("b of "), "{answers:?}");
    }
}

#[tokio::test]
async fn a_right_that_one_lacks_is_refused_to_that_one_only() {
    let server = Server::builder()
        .acl_user("app", "secret", "~ok:* &* +@all")
        .start()
        .unwrap();
    let Opened { transport, .. } = open(&server.url(), user("app", "secret")).await.unwrap();
    for _ in 0..2 {
        let calls =
            ["ok:a", "ok:b", "no:c", "ok:d"].map(|key| call(&DESCRIBE_ITEMS, key, &["x", "w"]));
        let answers = texts(call_concurrently(&transport, calls.into()).await);
        let alone = |key| format!("w of 1 x {key}");
        assert_eq!(
            answers,
            [
                alone("ok:a"),
                alone("ok:b"),
                "refused NOPERM".to_owned(),
                alone("ok:d")
            ]
        );
    }
}

/// What was carried out of a run that ended in the middle is not known, and nothing is repeated.
#[tokio::test]
async fn e3_a_run_that_breaks_off_leaves_everybody_unanswered() {
    let server = Server::builder().start().unwrap();
    let Opened { transport, .. } = open(&server.url(), Options::default()).await.unwrap();
    expect_int(
        transport
            .call(call(&COUNT_THEN_FAIL, "known", &["x", "w"]))
            .await,
    );
    let calls = [("a", "w"), ("b", "w"), ("c", "wrong"), ("d", "w")];
    let calls = calls.map(|(key, word)| call(&COUNT_THEN_FAIL, key, &["x", word]));
    let answers = texts(call_concurrently(&transport, calls.into()).await);
    assert_eq!(
        answers,
        ["int(1)", "unanswered", "unanswered", "unanswered"]
    );
    let counts = ["a", "b", "c", "d"].map(|key| times_run(&server, key));
    assert_eq!(counts, ["1", "1", "1", ""]);
    // One alone is told what it was.
    let answers = texts(
        call_concurrently(
            &transport,
            vec![call(&COUNT_THEN_FAIL, "e", &["x", "wrong"])],
        )
        .await,
    );
    assert_eq!(answers, ["failed ERR"]);
}

/// Nobody waits for somebody else's answer.
#[tokio::test]
async fn who_leaves_leaves_the_others_their_answers() {
    let server = Server::builder().start().unwrap();
    let Opened { transport, .. } = open(&server.url(), Options::default()).await.unwrap();
    expect_int(
        transport
            .call(call(&COUNT_THEN_FAIL, "known", &["x", "w"]))
            .await,
    );
    let first = transport.call(call(&COUNT_THEN_FAIL, "first", &["x", "w"]));
    let cancelled = transport.call(call(&COUNT_THEN_FAIL, "leaves", &["x", "w"]));
    let kept = transport.call(call(&COUNT_THEN_FAIL, "stays", &["x", "w"]));
    let mut cancelled = Box::pin(cancelled);
    let (mut first, mut kept) = (Box::pin(first), Box::pin(kept));
    // Each has asked, the second one first among those that go together.
    for task in [&mut first, &mut cancelled, &mut kept] {
        let asked = std::future::poll_fn(|context| {
            std::task::Poll::Ready(task.as_mut().poll(context).is_pending())
        });
        assert!(asked.await);
    }
    drop(cancelled);
    assert_eq!(expect_int(first.await), 1);
    assert_eq!(expect_int(kept.await), 1);
    // It was sent all the same.
    assert_eq!(times_run(&server, "leaves"), "1");
}

#[tokio::test]
async fn with_the_server_gone_everybody_is_told() {
    let server = Server::builder().start().unwrap();
    let Opened { transport, events } = open(&server.url(), Options::default()).await.unwrap();
    expect_int(
        transport
            .call(call(&COUNT_THEN_FAIL, "known", &["x", "w"]))
            .await,
    );
    server.pause().unwrap();
    let calls = ["a", "b", "c"].map(|key| call(&COUNT_THEN_FAIL, key, &["x", "w"]));
    let tasks = tokio::spawn({
        let transport = transport.clone();
        async move { texts(call_concurrently(&transport, calls.into()).await) }
    });
    tokio::time::timeout(Duration::from_millis(50), events.until("down"))
        .await
        .unwrap_err();
    drop(server);
    assert_eq!(tasks.await.unwrap(), ["unanswered"; 3]);
    events.until("down").await;
    let calls = ["a", "b", "c"].map(|key| call(&COUNT_THEN_FAIL, key, &["x", "w"]));
    assert_eq!(
        texts(call_concurrently(&transport, calls.into()).await),
        ["refused "; 3]
    );
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(3)
        .enable_all()
        .build()
        .unwrap()
}

/// A task of that runtime whose request the server, which is paused, does not answer yet.
fn blocked_call(
    runtime: &tokio::runtime::Runtime,
    server: &Server,
    transport: &Transport,
) -> tokio::task::JoinHandle<CallResult> {
    runtime.block_on(async {
        expect_int(
            transport
                .call(call(&COUNT_THEN_FAIL, "known", &["x", "w"]))
                .await,
        )
    });
    server.pause().unwrap();
    let transport = transport.clone();
    let (sender, asked) = std::sync::mpsc::channel();
    let task = runtime.spawn(async move {
        let mut task = Box::pin(transport.call(call(&COUNT_THEN_FAIL, "first", &["x", "w"])));
        let waits = poll_once(&mut task).await;
        sender.send(waits).unwrap();
        task.await
    });
    assert!(asked.recv().unwrap());
    task
}

/// Whether it waits.
async fn poll_once(task: &mut (impl Future + Unpin)) -> bool {
    let mut task = std::pin::Pin::new(task);
    std::future::poll_fn(|context| std::task::Poll::Ready(task.as_mut().poll(context).is_pending()))
        .await
}

/// Who asks has made sure that the server may grant, and the server at the other end of a new connection
/// was perhaps started since.
#[test]
fn x1_what_was_gathered_goes_to_no_server_that_was_started_since() {
    use tenure_core::clock::Clock as _;
    let server = Server::builder().start().unwrap();
    let main = runtime();
    let options = Options::default().restart_delay(Duration::from_secs(12));
    let Opened { transport, events } = main.block_on(open(&server.url(), options)).unwrap();
    let grants_allowed = {
        let transport = transport.clone();
        move || {
            let until = transport.grants_blocked_until("k");
            until.is_none_or(|until| until <= SystemClock.now())
        }
    };
    main.block_on(async { until("it is open", &grants_allowed).await });
    let first = blocked_call(&main, &server, &transport);
    let (unblock, blocked) = std::sync::mpsc::channel::<()>();
    let (sender, asked) = std::sync::mpsc::channel();
    let gathered = main.spawn({
        let grants_allowed = grants_allowed.clone();
        async move {
            assert!(grants_allowed());
            let mut task = Box::pin(transport.call(call(&COUNT_THEN_FAIL, "second", &["x", "w"])));
            sender.send(poll_once(&mut task).await).unwrap();
            // So is the worker, and what it was to do next.
            blocked.recv().unwrap();
            task.await
        }
    });
    assert!(asked.recv().unwrap());
    server.kill();
    server.restart().unwrap();
    main.block_on(events.until("up"));
    assert!(!grants_allowed(), "it was started just now");
    unblock.send(()).unwrap();
    let _ = main.block_on(first).unwrap();
    let answer = main.block_on(gathered).unwrap();
    assert!(answer.is_err(), "carried out on the new server: {answer:?}");
    assert_eq!(times_run(&server, "second"), "");
}

#[test]
fn w2_a_runtime_that_ends_leaves_nobody_unsent() {
    let server = Server::builder().start().unwrap();
    let main = runtime();
    let Opened { transport, .. } = main
        .block_on(open(&server.url(), Options::default()))
        .unwrap();
    let first = blocked_call(&main, &server, &transport);
    {
        let other = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let transport = transport.clone();
        other.block_on(async move {
            let mut task = Box::pin(transport.call(call(&COUNT_THEN_FAIL, "second", &["x", "w"])));
            assert!(poll_once(&mut task).await);
        });
    }
    server.resume().unwrap();
    expect_int(main.block_on(first).unwrap());
    let both = main.block_on(async {
        let calls = ["a", "b"].map(|key| call(&COUNT_THEN_FAIL, key, &["x", "w"]));
        tokio::time::timeout(TEST_TIMEOUT, call_concurrently(&transport, calls.into())).await
    });
    assert_eq!(texts(both.unwrap()), ["int(1)", "int(1)"]);
}
