//! `tenure backends`: lists the kinds of stores that this build supports.

use serde::Serialize;
use tenure::Registry;

use crate::{
    args::{Format, Global},
    exit::Failure,
    output,
};

#[derive(Serialize)]
struct View<'a> {
    schema: &'static str,
    schemes: &'a [&'static str],
    summary: Option<&'static str>,
    options: &'a [&'static str],
    /// The Cargo feature that adds this backend, if this build lacks it.
    missing_feature: Option<&'static str>,
}

/// Lists the backends.
pub(super) fn list(global: &Global, registry: &Registry) -> Result<(), Failure> {
    for factory in registry.factories() {
        let view = View {
            schema: "tenure.backends/1",
            schemes: factory.schemes(),
            summary: Some(factory.summary()),
            options: factory.option_keys(),
            missing_feature: None,
        };
        show(global.output, &view)?;
    }
    for (scheme, feature) in registry.absent_schemes() {
        let view = View {
            schema: "tenure.backends/1",
            schemes: &[scheme],
            summary: None,
            options: &[],
            missing_feature: Some(feature),
        };
        show(global.output, &view)?;
    }
    Ok(())
}

fn show(format: Format, view: &View<'_>) -> Result<(), Failure> {
    if format == Format::Json {
        return output::write_json(view);
    }
    let mut schemes = view.schemes.join(", ");
    if schemes.len() > 12 {
        schemes = format!("{schemes}\n{:<12}", "");
    }
    let mut text = match (view.summary, view.missing_feature) {
        (Some(summary), _) => format!("{schemes:<12} {summary}\n"),
        (None, feature) => {
            let feature = feature.unwrap_or_default();
            format!("{schemes:<12} not part of this build; build it with the feature `{feature}`\n")
        }
    };
    if !view.options.is_empty() {
        text += &format!("{:<12} options: {}\n", "", view.options.join(", "));
    }
    output::write(text)
}
