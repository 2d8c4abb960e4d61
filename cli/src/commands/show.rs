//! `tenure status` and `tenure ls`.

use std::ffi::OsStr;

use tenure::{Leader, Registry, request::List};

use crate::{
    args::{Format, Global},
    escape::{escape, quote},
    exit::{Failure, print_message},
    output,
    setup::{lock_name, read_only_sources, with_client, with_client_for_lock},
    view::{self, LeaderView, ListedView, LockView},
};

/// The number of locks in one page of the listing.
const PAGE_SIZE: usize = 500;

/// Shows one lock.
pub(super) fn status(name: &OsStr, global: &Global, registry: &Registry) -> Result<(), Failure> {
    let name = lock_name(name)?;
    with_client_for_lock(
        &name,
        &read_only_sources(global),
        registry,
        async |config, client| {
            let state = client.inspect(&name).await?;
            match global.output {
                Format::Text => {
                    // The output names the store and the namespace, so that a user notices a wrong one.
                    let store = escape(&client.info().endpoint);
                    let namespace = quote(config.namespace.as_str());
                    let place = format!("in namespace {namespace} of {store}\n");
                    output::write(view::describe(&state) + &place)
                }
                Format::Json => output::write_json(&LockView::new(
                    "tenure.status/1",
                    config.namespace.as_str(),
                    &state,
                )),
            }
        },
    )
}

/// Prints the value of the leader, and fails if there is none.
pub(super) fn leader(name: &OsStr, global: &Global, registry: &Registry) -> Result<(), Failure> {
    const NO_LEADER: u8 = 1;
    let name = lock_name(name)?;
    with_client_for_lock(
        &name,
        &read_only_sources(global),
        registry,
        async |config, client| {
            let leader = Leader::of(&client.inspect(&name).await?);
            if global.output == Format::Json {
                let view = LeaderView::new(config.namespace.as_str(), &name, &leader);
                output::write_json(&view)?;
            }
            match leader {
                Leader::Leads { value, .. } if global.output == Format::Text => {
                    output::write(format!("{}\n", escape(&value)))
                }
                Leader::Leads { .. } => Ok(()),
                _ => {
                    let name = quote(name.as_str());
                    Err(Failure::notice(NO_LEADER, format!("nobody leads {name}")))
                }
            }
        },
    )
}

/// Lists the locks that are held or waited for.
pub(super) fn ls(prefix: String, global: &Global, registry: &Registry) -> Result<(), Failure> {
    with_client(
        &read_only_sources(global),
        registry,
        async |config, client| {
            let mut request = List::new(prefix.as_str(), PAGE_SIZE);
            let mut any = false;
            loop {
                let page = client.list(request.clone()).await?;
                any |= !page.locks.is_empty();
                for listed in &page.locks {
                    match global.output {
                        Format::Text => {
                            let holder = listed.holder.as_ref();
                            let held = holder.map_or_else(|| "free".to_owned(), view::held_by);
                            let name = quote(listed.name.as_str());
                            let line = match &listed.unreadable {
                                Some(error) => {
                                    format!("{name}  cannot be read: {}\n", escape(error))
                                }
                                None => {
                                    let waiters = listed.waiters;
                                    let more = match listed.holders {
                                        0 | 1 => String::new(),
                                        holders => format!(", and {} more", holders - 1),
                                    };
                                    format!("{name}  {held}{more}, waiting: {waiters}\n")
                                }
                            };
                            output::write(line)?;
                        }
                        Format::Json => {
                            output::write_json(&ListedView::new(
                                config.namespace.as_str(),
                                listed,
                            ))?;
                        }
                    }
                }
                if page.next.is_none() {
                    if !any {
                        let namespace = quote(config.namespace.as_str());
                        let store = &client.info().endpoint;
                        let which = match &*prefix {
                            "" => "no locks".to_owned(),
                            prefix => format!("no locks whose names begin with {}", quote(prefix)),
                        };
                        print_message(&format!("{which} in namespace {namespace} of {store}"));
                    }
                    return Ok(());
                }
                request = request.at(page.next);
            }
        },
    )
}
