//! What was measured, and how it is shown.

/// One measurement of every contender, a number per round.
pub(crate) struct Table {
    title: &'static str,
    unit: &'static str,
    rows: Vec<(&'static str, Vec<f64>)>,
}

impl Table {
    pub(crate) fn new(title: &'static str, unit: &'static str) -> Self {
        let rows = Vec::new();
        Self { title, unit, rows }
    }

    pub(crate) fn add(&mut self, who: &'static str, value: f64) {
        match self.rows.iter_mut().find(|(name, _)| *name == who) {
            Some((_, values)) => values.push(value),
            None => self.rows.push((who, vec![value])),
        }
    }

    /// Each row's median over the rounds, and its ratio to every other row's, round by round.
    pub(crate) fn show(&self, rounds: usize) {
        println!(
            "\n{} ({}; median of {rounds} rounds)",
            self.title, self.unit
        );
        for (who, values) in &self.rows {
            print!("  {who:<18} {:>10.1}", median(values.clone()));
            for (other, theirs) in self.rows.iter().filter(|(other, _)| other != who) {
                let ratios = values
                    .iter()
                    .zip(theirs)
                    .map(|(ours, theirs)| ours / theirs);
                print!("   {:.2} x {other}", median(ratios.collect()));
            }
            println!();
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
