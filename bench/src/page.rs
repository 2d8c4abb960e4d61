//! The page of a run: its tables, and plots beside it.

use std::{fmt::Write, fs, path::Path};

use crate::{
    contender::Failure,
    limits,
    plot::{Line, Scale, draw},
    results::{Results, Work},
};

/// Writes `benchmark.md` to this directory, and the plots to `benchmark` in it.
pub(crate) fn write(results: &Results, directory: &Path) -> Result<(), Failure> {
    let plots = directory.join("benchmark");
    fs::create_dir_all(&plots)?;
    let mut page = String::from(
        "# Benchmark\n\nWritten by `make bench` from one run, servers and clients on one machine and \
         over loopback. Only ratios mean anything: all implementations of a store take turns, so \
         that drift of the machine hits all alike. *baseline* is what the store's own requests cost \
         that any lock needs; a ratio is the median of the rounds' ratios, and smaller is better for \
         times.\n\n",
    );
    for (what, value) in &results.machine {
        let _ = writeln!(page, "- {what}: {value}");
    }
    for (store, what) in &results.stores {
        let _ = writeln!(page, "\n## {what}");
        let notes = results.notes.iter().filter(|(of, _)| of == store);
        for (index, (_, note)) in notes.enumerate() {
            let gap = if index == 0 { "\n" } else { "" };
            let _ = writeln!(page, "{gap}- {note}");
        }
        if let Some(table) = limits::table(results, store) {
            let _ = writeln!(page, "\n{}", table.trim_end());
        }
        for work in results.works(store) {
            let _ = writeln!(page, "\n{}", results.table(store, work).trim_end());
        }
        page.push('\n');
        latencies(results, store, &plots, &mut page)?;
        for work in results.works(store) {
            growth(results, store, work, &plots, &mut page)?;
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
            name: &curve.who,
            points: curve.points.clone(),
        })
        .collect();
    let across = ("thousandths of all turns that are not longer", Scale::Even);
    let title = format!("{store}: {}", first.title);
    let svg = draw(&title, across, ("us", Scale::Logarithmic), &lines);
    place(&format!("{store}-alone"), &title, &svg, plots, page)
}

fn growth(
    results: &Results,
    store: &str,
    work: Work,
    plots: &Path,
    page: &mut String,
) -> Result<(), Failure> {
    let mut lines: Vec<Line<'_>> = Vec::new();
    for point in results.of(store, work) {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let place = (point.size as f64, point.median());
        match lines.iter_mut().find(|line| line.name == point.who) {
            Some(line) => line.points.push(place),
            None => lines.push(Line {
                name: &point.who,
                points: vec![place],
            }),
        }
    }
    for line in &mut lines {
        line.points.sort_by(|one, other| one.0.total_cmp(&other.0));
    }
    if lines.iter().all(|line| line.points.len() < 2) {
        return Ok(());
    }
    let title = format!("{store}: {}", work.title);
    let across = (work.per, Scale::Logarithmic);
    let svg = draw(&title, across, (work.unit, Scale::Logarithmic), &lines);
    place(&title, &title, &svg, plots, page)
}

fn place(
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
