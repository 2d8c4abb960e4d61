//! Calls that are pending at the same time.

use super::*;

/// Replies to each item with its argument, the number of items, and the shared argument; fails for
/// `wrong`.
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
/// Counts each item, and then fails the run for `wrong`.
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

/// Polls all calls together: the first is sent alone, and the others arrive while it is in flight.
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
async fn calls_during_a_call_in_flight_are_batched() {
    let server = Server::builder().start().unwrap();
    let Opened { transport, .. } = open(&server.url(), Options::default()).await.unwrap();
    // In the first round the server does not know the script, and every call still gets its reply.
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
    panic!("the calls were never batched");
}

#[tokio::test]
async fn no_run_exceeds_the_maximum_batch_size() {
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
async fn failed_item_does_not_fail_the_others() {
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
async fn missing_right_for_one_key_rejects_only_that_item() {
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

/// After a run that was aborted halfway, no outcome is known and nothing is repeated.
#[tokio::test]
async fn a3_aborted_run_leaves_all_outcomes_unknown() {
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
    // A single call gets the script's error.
    let answers = texts(
        call_concurrently(
            &transport,
            vec![call(&COUNT_THEN_FAIL, "e", &["x", "wrong"])],
        )
        .await,
    );
    assert_eq!(answers, ["failed ERR"]);
}

/// No call waits for the reply to another call.
#[tokio::test]
async fn a4_cancelled_caller_leaves_the_other_replies_intact() {
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
    // All three have been polled; the second call is the first one in the queue.
    for task in [&mut first, &mut cancelled, &mut kept] {
        let asked = std::future::poll_fn(|context| {
            std::task::Poll::Ready(task.as_mut().poll(context).is_pending())
        });
        assert!(asked.await);
    }
    drop(cancelled);
    assert_eq!(expect_int(first.await), 1);
    assert_eq!(expect_int(kept.await), 1);
    // The cancelled call was sent nevertheless.
    assert_eq!(times_run(&server, "leaves"), "1");
}

#[tokio::test]
async fn a3_killed_server_leaves_the_outcome_of_batched_calls_unknown() {
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
        let transport = Arc::clone(&transport);
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

/// A task of that runtime whose call stays in flight because the server is paused.
fn blocked_call(
    runtime: &tokio::runtime::Runtime,
    server: &Server,
    transport: &Arc<Transport>,
) -> tokio::task::JoinHandle<CallResult> {
    runtime.block_on(async {
        expect_int(
            transport
                .call(call(&COUNT_THEN_FAIL, "known", &["x", "w"]))
                .await,
        )
    });
    server.pause().unwrap();
    let transport = Arc::clone(transport);
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

/// Polls once and returns whether the task is pending.
async fn poll_once(task: &mut (impl Future + Unpin)) -> bool {
    let mut task = std::pin::Pin::new(task);
    std::future::poll_fn(|context| std::task::Poll::Ready(task.as_mut().poll(context).is_pending()))
        .await
}

/// The caller has checked that the server may grant locks. The server at the other end of a new
/// connection may have started since.
#[test]
fn x1_queued_calls_are_not_sent_to_a_restarted_server() {
    use tenure_core::clock::Clock as _;
    let server = Server::builder().start().unwrap();
    let main = runtime();
    let options = Options::default().restart_delay(Duration::from_secs(12));
    let Opened { transport, events } = main.block_on(open(&server.url(), options)).unwrap();
    let grants_allowed = {
        let transport = Arc::clone(&transport);
        move || {
            let until = transport.grants_blocked_until("k");
            until.is_none_or(|until| until <= SystemClock.now())
        }
    };
    main.block_on(async { until("grants are allowed", &grants_allowed).await });
    let first = blocked_call(&main, &server, &transport);
    let (unblock, blocked) = std::sync::mpsc::channel::<()>();
    let (sender, asked) = std::sync::mpsc::channel();
    let gathered = main.spawn({
        let grants_allowed = grants_allowed.clone();
        async move {
            assert!(grants_allowed());
            let mut task = Box::pin(transport.call(call(&COUNT_THEN_FAIL, "second", &["x", "w"])));
            sender.send(poll_once(&mut task).await).unwrap();
            // This blocks the worker thread, together with the flush that it was to run next.
            blocked.recv().unwrap();
            task.await
        }
    });
    assert!(asked.recv().unwrap());
    server.kill();
    server.restart().unwrap();
    main.block_on(events.until("up"));
    assert!(!grants_allowed(), "the server has just started");
    unblock.send(()).unwrap();
    let _ = main.block_on(first).unwrap();
    let answer = main.block_on(gathered).unwrap();
    assert!(answer.is_err(), "executed on the new server: {answer:?}");
    assert_eq!(times_run(&server, "second"), "");
}

#[test]
fn w2_ended_runtime_leaves_no_call_unsent() {
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
        let transport = Arc::clone(&transport);
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
