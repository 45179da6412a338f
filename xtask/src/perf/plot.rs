//! Plots as SVG: cost against flows, both logarithmic in the flows, the bound drawn in.

use super::suite::short;
use serde_json::Value;
use std::fmt::Write;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 52.0;
/// Distinguishable without red and green (Okabe and Ito).
const COLOURS: [&str; 7] = ["#0072b2", "#000000", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// A line of a plot.
struct Series {
    name: String,
    /// Flows and nanoseconds.
    points: Vec<(f64, f64)>,
    dashed: bool,
}

/// Every plot that the results have data for, by file name.
pub(super) fn all(results: &Value) -> Vec<(String, String)> {
    let mut plots = Vec::new();
    let engine = [
        ("engine", "engine-", "/ns_per_packet/median", false),
        ("one-line bound", "engine-", "/bound_ns/median", true),
        ("IPv6", "engine6-", "/ns_per_packet/median", false),
        ("state = exceptions", "exceptions-", "/ns_per_packet/median", false),
    ];
    let lines = engine.iter().map(|&(name, prefix, at, dashed)| series(results, name, prefix, at, dashed));
    plots.extend(draw("engine.svg", "A packet in memory, parse to encapsulation, ns", lines.collect()));
    for kind in ["positive", "negative", "mixed"] {
        let lines = super::page::TABLES.map(|name| {
            let at = format!("/ns_per_lookup/{kind}/{name}/median");
            let shown = if name == "bound" { "one-line bound" } else { name };
            series(results, shown, "table-", &at, name == "bound")
        });
        let title = format!("A look-up, {kind}, ns");
        plots.extend(draw(&format!("table-{kind}.svg"), &title, lines.into()));
    }
    plots
}

/// The points of all runs whose name is `prefix` and a number of flows.
fn series(results: &Value, name: &str, prefix: &str, at: &str, dashed: bool) -> Series {
    let runs = results.get("runs").and_then(Value::as_object);
    let mut points: Vec<(f64, f64)> = runs
        .into_iter()
        .flatten()
        .filter_map(|(run, value)| {
            let result = value.get("result")?;
            let flows = result.get("flows")?.as_u64()?;
            (run.strip_prefix(prefix)? == short(flows)).then_some(())?;
            Some((flows as f64, result.pointer(at)?.as_f64()?))
        })
        .collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    Series { name: name.to_owned(), points, dashed }
}

/// The file, if there is anything to see.
fn draw(file: &str, title: &str, series: Vec<Series>) -> Option<(String, String)> {
    let series: Vec<Series> = series.into_iter().filter(|s| !s.points.is_empty()).collect();
    let all = || series.iter().flat_map(|s| s.points.iter());
    let x_min = all().map(|p| p.0).fold(f64::INFINITY, f64::min).log10().floor();
    let x_max = all().map(|p| p.0).fold(0.0, f64::max).log10().ceil().max(x_min + 1.0);
    let y_max = nice(all().map(|p| p.1).fold(0.0, f64::max));
    if !x_min.is_finite() || y_max <= 0.0 {
        return None;
    }
    let axes = Axes { x_min, x_max, y_max };
    let mut svg = String::new();
    // Writing to a string does not fail.
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"26\" font-size=\"16\">{title}</text>\n"
    );
    axes.grid(&mut svg);
    for (number, line) in series.iter().enumerate() {
        axes.curve(&mut svg, number, line);
    }
    svg.push_str("</svg>\n");
    Some((file.to_owned(), svg))
}

/// What the two axes show: powers of ten of flows, and nanoseconds from 0.
struct Axes {
    x_min: f64,
    x_max: f64,
    y_max: f64,
}

impl Axes {
    fn x(&self, flows: f64) -> f64 {
        LEFT + (flows.log10() - self.x_min) / (self.x_max - self.x_min) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, ns: f64) -> f64 {
        HEIGHT - BOTTOM - ns / self.y_max * (HEIGHT - TOP - BOTTOM)
    }

    /// Lines and numbers behind the curves.
    fn grid(&self, svg: &mut String) {
        for step in 0..=5 {
            let ns = self.y_max / 5.0 * f64::from(step);
            let at = self.y(ns);
            let _ = write!(
                svg,
                "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\" stroke=\"#dddddd\"/>\n\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{ns}</text>\n",
                WIDTH - RIGHT,
                LEFT - 8.0,
                at + 4.0,
            );
        }
        let mut decade = self.x_min;
        while decade <= self.x_max {
            let at = self.x(10_f64.powf(decade));
            let _ = write!(
                svg,
                "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"#eeeeee\"/>\n\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
                HEIGHT - BOTTOM,
                HEIGHT - BOTTOM + 20.0,
                short(10_f64.powf(decade) as u64),
            );
            decade += 1.0;
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">flows</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 12.0
        );
    }

    /// One curve, its points, and its name at the right.
    fn curve(&self, svg: &mut String, number: usize, line: &Series) {
        let colour = COLOURS[number % COLOURS.len()];
        let dashes = if line.dashed { " stroke-dasharray=\"7 5\"" } else { "" };
        let path: Vec<String> =
            line.points.iter().map(|p| format!("{:.1},{:.1}", self.x(p.0), self.y(p.1))).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>",
            path.join(" ")
        );
        for point in &line.points {
            let _ = writeln!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"{colour}\"><title>{} flows: {} \
                 ns</title></circle>",
                self.x(point.0),
                self.y(point.1),
                short(point.0 as u64),
                point.1
            );
        }
        let at = TOP + 18.0 * number as f64 + 8.0;
        let _ = write!(
            svg,
            "<line x1=\"{:.1}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\" stroke=\"{colour}\" \
             stroke-width=\"2\"{dashes}/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
            WIDTH - RIGHT + 12.0,
            WIDTH - RIGHT + 40.0,
            WIDTH - RIGHT + 46.0,
            at + 4.0,
            line.name,
        );
    }
}

/// The next of 1, 2, 2.5, 5 times a power of ten.
fn nice(value: f64) -> f64 {
    if value <= 0.0 {
        return 0.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 2.5, 5.0].into_iter().map(|n| n * power).find(|&n| n >= value).unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_plot_has_its_points_and_the_bound() {
        let run = |flows: u64, ns: f64| json!({ "result": { "flows": flows, "ns_per_packet": { "median": ns }, "bound_ns": { "median": 2.0 } } });
        let results = json!({ "runs": {
            "engine-1K": run(1_000, 8.0), "engine-1M": run(1_000_000, 18.0), "engine-gre": run(1_000, 99.0),
            "engine-64M": { "failure": "no memory" },
        } });
        let plots = all(&results);
        assert_eq!(plots.len(), 1);
        let (file, svg) = &plots[0];
        assert_eq!(file, "engine.svg");
        assert_eq!(svg.matches("<circle").count(), 4, "two of the engine, two of the bound");
        assert!(svg.contains("1M flows: 18 ns") && svg.contains("one-line bound") && !svg.contains("99 ns"));
        assert!(all(&json!({})).is_empty());
    }

    #[test]
    fn axes_end_at_nice_numbers() {
        assert_eq!([nice(0.9), nice(18.0), nice(21.0), nice(51.0)], [1.0, 20.0, 25.0, 100.0]);
    }
}
