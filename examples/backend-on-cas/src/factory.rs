//! The factory of the table, for the registry, the configuration and the command.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tenure::{Error, Factory, backend::Connect, settings::Settings};

use crate::Table;

/// Opens URLs such as `table:orders`.
#[derive(Debug, Default)]
pub struct TableFactory(Mutex<HashMap<String, Table>>);

impl Factory for TableFactory {
    fn schemes(&self) -> &[&'static str] {
        &["table"]
    }

    fn summary(&self) -> &'static str {
        "a table of versioned rows, in this process: table:NAME"
    }

    fn open(&self, settings: &Settings) -> Result<Arc<dyn Connect>, Error> {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let table = tables.entry(settings.url.path().to_owned()).or_default();
        Ok(Arc::new(table.clone()))
    }
}
