//! What a fencing token is for: a holder whose lock was taken away goes on writing, and the
//! resource refuses it. Run with `cargo run -p tenure --example fencing`.

use std::error::Error;

use tenure::{
    Client,
    fence::TokenGate,
    memory::MemoryStore,
    name::{LockName, Namespace},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let store = MemoryStore::new();
    let (anna, otto) = (
        Client::builder(store.clone())
            .label("anna")
            .connect()
            .await?,
        Client::builder(store.clone())
            .label("otto")
            .connect()
            .await?,
    );
    // The resource remembers the highest token that it has seen.
    let account = TokenGate::new();

    let first = anna.lock("account-7")?.acquire().await?;
    account.pass(first.token(), || {
        println!("anna writes, token {}", first.token())
    })?;

    // Anna's grant is taken away, as by `tenure break`, while she is busy and does not look.
    store.lose(&Namespace::default(), &LockName::new("account-7")?);
    let second = otto.lock("account-7")?.acquire().await?;
    account.pass(second.token(), || {
        println!("otto writes, token {}", second.token())
    })?;

    // She could have known: the guard says so at once.
    println!("anna's guard: {}", first.lost().await);
    // But a write can always be late. The resource refuses it.
    match account.pass(first.token(), || println!("anna writes over it")) {
        Ok(()) => Err("a late write was let through".into()),
        Err(stale) => {
            println!("anna's late write is refused: {stale}");
            Ok(())
        }
    }
}
