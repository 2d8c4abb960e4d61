//! The page of a run, with tables and plots.

use std::{fmt::Write, fs, path::Path};

use crate::{
    implementation::Failure,
    limits,
    plot::{Line, Scale, draw},
    results::{Metric, Results},
};

/// Writes `benchmark.md` to the directory, and the plots to its subdirectory `benchmark`.
pub(crate) fn write(results: &Results, directory: &Path) -> Result<(), Failure> {
    let plots = directory.join("benchmark");
    fs::create_dir_all(&plots)?;
    let mut page = String::from(
        "# Benchmark\n\n`make bench` writes this page from one run. Servers and clients run on one \
         machine and communicate over loopback. Only the ratios are meaningful: all implementations of \
         a store take turns, so that drift of the machine affects all equally. *baseline* is the cost \
         of the store's own requests that every lock needs. A ratio is the median of the rounds' \
         ratios; for durations, smaller is better. A number in brackets is the fairness of a load with \
         contention, the longest wait over the median wait: the nearer to 1, the fairer.\n\n",
    );
    for (fact, value) in &results.machine {
        let _ = writeln!(page, "- {fact}: {value}");
    }
    for (store, description) in &results.stores {
        let _ = writeln!(page, "\n## {description}");
        let notes = results.notes.iter().filter(|(of, _)| of == store);
        for (index, (_, note)) in notes.enumerate() {
            let gap = if index == 0 { "\n" } else { "" };
            let _ = writeln!(page, "{gap}- {note}");
        }
        if let Some(table) = limits::table(results, store) {
            let _ = writeln!(page, "\n{}", table.trim_end());
        }
        for metric in results.metrics(store) {
            let _ = writeln!(page, "\n{}", results.table(store, metric).trim_end());
        }
        page.push('\n');
        latencies(results, store, &plots, &mut page)?;
        for metric in results.metrics(store) {
            growth(results, store, metric, &plots, &mut page)?;
        }
    }
    fs::write(directory.join("benchmark.md"), page)?;
    Ok(())
}

fn latencies(
    results: &Results,
    store: &str,
    plots: &Path,
    page: &mut String,
) -> Result<(), Failure> {
    let curves: Vec<_> = results
        .curves
        .iter()
        .filter(|curve| curve.store == store)
        .collect();
    let Some(first) = curves.first() else {
        return Ok(());
    };
    let lines: Vec<_> = curves
        .iter()
        .map(|curve| Line {
            name: &curve.implementation,
            points: curve.points.clone(),
        })
        .collect();
    let across = ("thousandths of all pairs", Scale::Linear);
    let title = format!("{store}: {}", first.title);
    let svg = draw(&title, across, ("us", Scale::Logarithmic), &lines);
    write_plot(&format!("{store}-uncontended"), &title, &svg, plots, page)
}

fn growth(
    results: &Results,
    store: &str,
    metric: Metric,
    plots: &Path,
    page: &mut String,
) -> Result<(), Failure> {
    let mut lines: Vec<Line<'_>> = Vec::new();
    for point in results.of(store, metric) {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let coordinates = (point.size as f64, point.median());
        match lines
            .iter_mut()
            .find(|line| line.name == point.implementation)
        {
            Some(line) => line.points.push(coordinates),
            None => lines.push(Line {
                name: &point.implementation,
                points: vec![coordinates],
            }),
        }
    }
    for line in &mut lines {
        line.points.sort_by(|one, other| one.0.total_cmp(&other.0));
    }
    if lines.iter().all(|line| line.points.len() < 2) {
        return Ok(());
    }
    let title = format!("{store}: {}", metric.title);
    let across = (metric.per, Scale::Logarithmic);
    let svg = draw(&title, across, (metric.unit, Scale::Logarithmic), &lines);
    write_plot(&title, &title, &svg, plots, page)
}

fn write_plot(
    name: &str,
    title: &str,
    svg: &str,
    plots: &Path,
    page: &mut String,
) -> Result<(), Failure> {
    let words = name.split(|letter: char| !letter.is_ascii_alphanumeric());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    let file = words.join("-").to_lowercase() + ".svg";
    fs::write(plots.join(&file), svg)?;
    let _ = writeln!(page, "\n![{title}](benchmark/{file})");
    Ok(())
}
