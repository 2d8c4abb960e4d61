//! Plots of curves as SVG, with linear or logarithmic axes.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
const COLOURS: [&str; 5] = ["#1b6ca8", "#c8553d", "#3a7d44", "#7b4fa0", "#8a6d1b"];

/// The scale of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    Linear,
    Logarithmic,
}

/// One curve and its name.
pub(crate) struct Line<'a> {
    pub(crate) name: &'a str,
    pub(crate) points: Vec<(f64, f64)>,
}

struct Axis {
    scale: Scale,
    least: f64,
    most: f64,
}

impl Axis {
    fn new(scale: Scale, values: impl Iterator<Item = f64> + Clone) -> Self {
        let least = values.clone().fold(f64::INFINITY, f64::min);
        let most = values.fold(f64::NEG_INFINITY, f64::max);
        match scale {
            // Both ends are powers of ten.
            Scale::Logarithmic => {
                let low = least.max(1e-9).log10().floor();
                let high = most.max(1e-9).log10().ceil().max(low + 1.0);
                let (least, most) = (10_f64.powf(low), 10_f64.powf(high));
                Self { scale, least, most }
            }
            Scale::Linear => Self {
                scale,
                least,
                most: most.max(least + 1e-9),
            },
        }
    }

    /// Returns the position of a value on the axis, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => (value - self.least) / (self.most - self.least),
            Scale::Logarithmic => {
                let (low, high) = (self.least.log10(), self.most.log10());
                (value.max(self.least).log10() - low) / (high - low)
            }
        }
    }

    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => (0..=5)
                .map(|fifth| self.least + (self.most - self.least) * f64::from(fifth) / 5.0)
                .collect(),
            Scale::Logarithmic => {
                let mut ticks = vec![self.least];
                while let Some(last) = ticks.last().filter(|last| **last * 1.1 < self.most) {
                    ticks.push(last * 10.0);
                }
                ticks
            }
        }
    }
}

/// Draws all curves. `across` and `up` are the titles and scales of the axes.
pub(crate) fn draw(
    title: &str,
    across: (&str, Scale),
    up: (&str, Scale),
    lines: &[Line<'_>],
) -> String {
    let all = || lines.iter().flat_map(|line| line.points.iter());
    let x = Axis::new(across.1, all().map(|point| point.0));
    let y = Axis::new(up.1, all().map(|point| point.1));
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let at_x = |value| LEFT + x.place(value) * (right - LEFT);
    let at_y = |value| bottom - y.place(value) * (bottom - TOP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>\n",
        escape(title)
    );
    for tick in x.ticks() {
        let at = at_x(tick);
        let _ = writeln!(
            svg,
            "<path d=\"M{at:.1} {TOP}V{bottom}\" stroke=\"#ddd\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bottom + 16.0,
            short(tick)
        );
    }
    for tick in y.ticks() {
        let at = at_y(tick);
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            at + 4.0,
            short(tick)
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
         <text transform=\"translate(16 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        f64::midpoint(LEFT, right),
        HEIGHT - 12.0,
        escape(across.0),
        f64::midpoint(TOP, bottom),
        escape(up.0)
    );
    for ((line, colour), row) in lines.iter().zip(COLOURS.iter().cycle()).zip(0_u32..) {
        let mut path = String::new();
        for (index, point) in line.points.iter().enumerate() {
            let step = if index == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{step}{:.1} {:.1}", at_x(point.0), at_y(point.1));
        }
        let height = TOP + 14.0 + 20.0 * f64::from(row);
        let _ = writeln!(
            svg,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <path d=\"M{:.1} {:.1}h18\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"{:.1}\" y=\"{height:.1}\">{}</text>",
            right + 10.0,
            height - 4.0,
            right + 34.0,
            escape(line.name)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn short(value: f64) -> String {
    let (value, unit) = match value {
        value if value >= 1e6 => (value / 1e6, "M"),
        value if value >= 1e3 => (value / 1e3, "k"),
        value => (value, ""),
    };
    let digits = usize::from(value.fract() > 0.05) + usize::from(value < 0.1 && value > 0.0);
    format!("{value:.digits$}{unit}")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_begin_and_end_at_the_positions_of_their_points() {
        let line = Line {
            name: "a<b",
            points: vec![(1.0, 10.0), (10.0, 1000.0)],
        };
        let up = ("us", Scale::Logarithmic);
        let svg = draw("t", ("n", Scale::Logarithmic), up, &[line]);
        // The curve goes from the lower left corner to the upper right corner.
        assert!(svg.contains("d=\"M80.0 350.0L530.0 40.0\""), "{svg}");
        assert!(svg.contains("a&lt;b") && svg.contains(">1k<"), "{svg}");
    }
}
