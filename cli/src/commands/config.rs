//! `tenure config show` and `tenure config check`.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Serialize;
use tenure::{Config, Registry, config::KEYS};

use crate::{
    args::{ConfigCommand, Format, Global, KILL_AFTER},
    escape::escape,
    exit::Failure,
    output,
    run::check_fits,
    setup::{load, read_only_sources},
};

#[derive(Serialize)]
struct View {
    schema: &'static str,
    values: BTreeMap<String, Value>,
    /// The address of the store, such as the default directory; `None` if the values name no store.
    store: Option<String>,
    password_file: Option<PathBuf>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Value {
    /// As TOML would have it.
    value: String,
    origin: String,
    default: bool,
}

/// Shows or checks the configuration. The store is not contacted.
pub(super) fn run(
    command: &ConfigCommand,
    global: &Global,
    registry: &Registry,
) -> Result<(), Failure> {
    let config = load(&read_only_sources(global))?;
    match command {
        ConfigCommand::Show => show(&config, global, registry),
        ConfigCommand::Check => {
            let store = config.open(registry)?.info().endpoint;
            config.drift_bounds.check(config.ttl)?;
            // `tenure run` refuses what is only a warning here.
            let warning = config.warnings().first().cloned();
            let run = warning.or_else(|| check_fits(KILL_AFTER, &config).err());
            match global.output {
                Format::Text => {
                    let store = escape(&store);
                    let mut text = format!("the configuration is valid; store: {store}\n");
                    if let Some(arithmetic) = &run {
                        text += &format!("but `tenure run` refuses it: {arithmetic}\n");
                    }
                    text +=
                        "the store was not contacted; its requirements are checked at connect\n";
                    output::write(text)
                }
                Format::Json => output::write_json(&serde_json::json!({
                    "schema": "tenure.config-check/1",
                    "ok": true,
                    "store": store,
                    "run_refuses": run,
                    "warnings": config.warnings(),
                })),
            }
        }
    }
}

fn show(config: &Config, global: &Global, registry: &Registry) -> Result<(), Failure> {
    let entries = config.entries(registry);
    let opened = config.open(registry).ok();
    let store = opened.map(|connector| connector.info().endpoint);
    let password_file = config.password_file.as_deref();
    let password_file = password_file.and_then(|file| std::path::absolute(file).ok());
    if global.output == Format::Json {
        let value = |entry: tenure::config::Entry| {
            let value = Value {
                value: entry.value,
                origin: entry.origin,
                default: entry.is_default,
            };
            (entry.key, value)
        };
        return output::write_json(&View {
            schema: "tenure.config/1",
            values: entries.into_iter().map(value).collect(),
            store,
            password_file,
            warnings: config.warnings().to_vec(),
        });
    }
    let mut text = String::new();
    for entry in entries {
        let line = format!("{} = {}", escape(&entry.key), escape(&entry.value));
        text += &format!("{line:<44}  # {}\n", escape(&entry.origin));
    }
    for key in KEYS.iter().filter(|key| config.origin(key).is_none()) {
        text += &format!("{:<44}  # not set\n", format!("# {key}"));
    }
    if let Some(store) = store {
        text += &format!("# the store: {}\n", escape(&store));
    }
    if let Some(file) = password_file {
        text += &format!(
            "# the password file: {}\n",
            escape(&file.display().to_string())
        );
    }
    output::write(text)
}
