//! The suite on a user's store: its namespaces and its clean-up.

use std::{sync::Arc, time::Duration};

use tenure_conformance::{
    Env, Harness, Need, Store, cases,
    wrap::{Fate, Op, Plan, Tap},
};
use tenure_core::{
    Client, backend::Connect, error::ErrorKind, memory::MemoryStore, name::Namespace, request::List,
};

fn store(memory: &MemoryStore) -> Store {
    let connector: Arc<dyn Connect> = Arc::new(memory.clone());
    Store::new(connector, &Namespace::new("mine").unwrap()).unwrap()
}

async fn client(env: &dyn Env, plan: &Plan) -> Client {
    let builder = Client::builder(Tap::new(env.connector(), plan)).namespace(env.namespace());
    builder
        .ttl(Duration::from_secs(30))
        .connect()
        .await
        .unwrap()
}

async fn held(client: &Client) -> usize {
    client.list(List::new("", 10)).await.unwrap().locks.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn clean_up_evicts_the_grants_of_cases_and_no_others() {
    let memory = MemoryStore::new();
    let store = store(&memory);
    let mine = Client::builder(memory.clone()).namespace(Namespace::new("mine").unwrap());
    let mine = mine.connect().await.unwrap();
    let kept = mine.lock("left").unwrap().acquire().await.unwrap();
    let (first, second) = (store.start().await.unwrap(), store.start().await.unwrap());
    assert_ne!(first.namespace(), second.namespace());
    for env in [&first, &second] {
        let name = env.namespace();
        assert!(name.as_str().starts_with("mine.conformance-"), "{name:?}");
        assert!(name.as_str().starts_with(store.base()));
    }
    let plan = Plan::new();
    let (holder, waiter) = (client(&*first, &plan).await, client(&*first, &plan).await);
    let guard = holder.lock("left").unwrap().acquire().await.unwrap();
    let waiting = waiter.lock("left").unwrap();
    let waiting = tokio::spawn(async move { waiting.acquire().await });
    while holder.inspect(guard.name()).await.unwrap().queue.is_empty() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // Both clients die, as in a failing case.
    plan.silence();
    let left = store.clean_up().await;
    plan.set(Op::Inspect, Fate::Pass);
    assert_eq!(
        held(&holder).await,
        0,
        "the holder and then the waiter must be evicted"
    );
    assert!(kept.check().is_ok());
    assert_eq!(held(&mine).await, 1, "the user's own lock must stay held");
    assert!(left.is_empty(), "the memory store keeps nothing: {left:?}");
    waiting.abort();
    assert!(
        store.clean_up().await.is_empty(),
        "the second clean-up must find nothing"
    );
}

#[tokio::test]
async fn cases_that_need_the_stores_own_tools_are_expected_ignores() {
    let store = store(&MemoryStore::new());
    let excused: Vec<&str> = store.expected_ignores().iter().map(|(id, _)| *id).collect();
    for case in cases() {
        let may = case.needs.is_some_and(|need| need != Need::Processes);
        assert_eq!(excused.contains(&case.id), may, "{}", case.id);
    }
    let env = store.start().await.unwrap();
    let joined = store.join(&env.ticket().unwrap()).await.unwrap();
    assert_eq!(joined.namespace(), env.namespace());
}

#[test]
fn namespace_without_room_for_the_suffix_is_refused() {
    let connector: Arc<dyn Connect> = Arc::new(MemoryStore::new());
    let long = Namespace::new("n".repeat(480)).unwrap();
    let error = Store::new(connector, &long).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}
