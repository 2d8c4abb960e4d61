//! The use of a fencing token: a holder writes after the loss of its lock, and the resource refuses the
//! write. Run with `cargo run -p tenure --example fencing`.

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
    // The resource remembers the highest token.
    let account = TokenGate::new();

    let first = anna.lock("account-7")?.acquire().await?;
    account.pass(first.token(), first.floor(), || {
        println!("anna writes, token {}", first.token())
    })?;

    // Anna loses her grant, as by `tenure break`, and does not check her guard.
    store.lose(&Namespace::default(), &LockName::new("account-7")?);
    let second = otto.lock("account-7")?.acquire().await?;
    account.pass(second.token(), second.floor(), || {
        println!("otto writes, token {}", second.token())
    })?;

    // Her guard reports the loss at once.
    println!("anna's guard: {}", first.lost().await);
    // A write can still be late. The resource refuses it.
    match account.pass(first.token(), first.floor(), || {
        println!("anna overwrites it")
    }) {
        Ok(()) => Err("the resource accepted a late write".into()),
        Err(stale) => {
            println!("anna's late write is refused: {stale}");
            Ok(())
        }
    }
}
