//! `tenure break`: evicts one grant.

use serde::Serialize;
use tenure::{Registry, request::Evicted, token::FencingToken};

use crate::{
    args::{Break, Format, Global},
    escape::quote,
    exit::{Failure, print_message},
    output,
    setup::{lock_name, sources, with_client_for_lock},
    view::{HolderView, held_by},
};

/// Exit code if no grant has that token.
const NOT_HELD: u8 = 75;

#[derive(Serialize)]
struct View<'a> {
    schema: &'static str,
    name: &'a str,
    namespace: &'a str,
    token: u64,
    reason: &'a str,
    broken: bool,
    holder: Option<HolderView>,
}

/// Evicts the grant with the given token and no other grant.
pub(super) fn evict(options: &Break, global: &Global, registry: &Registry) -> Result<(), Failure> {
    let name = lock_name(&options.name)?;
    let shown = quote(name.as_str());
    with_client_for_lock(&name, &sources(global), registry, async |config, client| {
        let outcome = client
            .evict(&name, FencingToken::new(options.token))
            .await?;
        let (broken, holder) = match &outcome {
            Evicted::NotHeld(holder) => (false, holder.as_ref()),
            _ => (true, None),
        };
        if global.output == Format::Json {
            output::write_json(&View {
                schema: "tenure.break/1",
                name: name.as_str(),
                namespace: config.namespace.as_str(),
                token: options.token,
                reason: &options.reason,
                broken,
                holder: holder.map(HolderView::new),
            })?;
        }
        if !broken {
            let now = holder.map_or_else(|| "free".to_owned(), held_by);
            return Err(Failure::new(
                NOT_HELD,
                format!(
                    "no grant of {shown} has the token {}; the lock is {now}",
                    options.token
                ),
            ));
        }
        print_message(&format!(
            "evicted the grant with token {} of {shown}, because: {}; the holder continues until it \
             learns of the loss, and until then only its fencing token protects",
            options.token, options.reason
        ));
        Ok(())
    })
}
