//! Plots as SVG: cost against flows, logarithmic in the flows, the bound drawn in.

use super::suite::short;
use plotters::prelude::*;
use serde_json::Value;
use std::error::Error;

/// Width and height, pixels.
const SIZE: (u32, u32) = (860, 480);
/// Font of what is written at axes and lines.
const LABELS: (&str, u32) = ("sans-serif", 16);
/// Distinguishable without red and green (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0x00, 0x00, 0x00),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
];

/// A line of a plot.
struct Series {
    name: String,
    /// Flows and nanoseconds.
    points: Vec<(f64, f64)>,
    dashed: bool,
}

/// A file's name, and what is in it.
type Plot = (String, String);

/// Every plot that the results have data for.
///
/// # Errors
/// A plot that cannot be drawn.
pub(super) fn all(results: &Value) -> Result<Vec<Plot>, String> {
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
    plots.into_iter().collect::<Result<_, _>>().map_err(|error| format!("a plot: {error}"))
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
fn draw(file: &str, title: &str, mut series: Vec<Series>) -> Option<Result<Plot, Box<dyn Error>>> {
    series.retain(|line| !line.points.is_empty());
    let flows = || series.iter().flat_map(|line| line.points.iter().map(|point| point.0));
    let first = flows().fold(f64::INFINITY, f64::min).log10().floor();
    let last = flows().fold(0.0, f64::max).log10().ceil().max(first + 1.0);
    let most = series.iter().flat_map(|line| line.points.iter().map(|point| point.1)).fold(0.0, f64::max);
    if !first.is_finite() || most <= 0.0 {
        return None;
    }
    let svg = svg(title, &series, (10_f64.powf(first), 10_f64.powf(last)), most);
    Some(svg.map(|svg| (file.to_owned(), svg)))
}

/// The lines between two powers of ten of flows, up to `most` nanoseconds.
fn svg(title: &str, series: &[Series], flows: (f64, f64), most: f64) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(44)
        .build_cartesian_2d((flows.0..flows.1).log_scale(), 0.0..most * 1.05)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .label_style(LABELS)
        .x_desc("flows")
        .x_label_formatter(&|flows| short(flows.round() as u64))
        .y_label_formatter(&|ns| ns.to_string())
        .draw()?;
    for (line, colour) in series.iter().zip(COLOURS.iter().cycle()) {
        let style = colour.stroke_width(2);
        let points = || line.points.iter().copied();
        let drawn = if line.dashed {
            chart.draw_series(DashedLineSeries::new(points(), 7, 5, style))?
        } else {
            chart.draw_series(LineSeries::new(points(), style))?
        };
        drawn.label(&line.name).legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], style));
        chart.draw_series(points().map(|point| Circle::new(point, 4, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .label_font(LABELS)
        .legend_area_size(30)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    area.present()?;
    drop(chart);
    drop(area);
    Ok(svg)
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
        let plots = all(&results).unwrap();
        assert_eq!(plots.len(), 1);
        let (file, svg) = &plots[0];
        assert_eq!(file, "engine.svg");
        let legend = svg.matches("one-line bound").count();
        assert!(legend == 1 && svg.contains("engine") && !svg.contains("IPv6"), "{svg}");
        let attribute = |element: &str, name: &str| -> f64 {
            let value = element.split(&format!(" {name}=\"")).nth(1).unwrap();
            value.split('"').next().unwrap().parse().unwrap()
        };
        let circles = svg.split("<circle").skip(1);
        let points: Vec<_> = circles.map(|of| (attribute(of, "cx"), attribute(of, "cy"))).collect();
        let [small, large, bound, bound_of_large] = points[..] else { panic!("{points:?}") };
        assert!(small.0 < large.0 && small.1 > large.1, "more flows to the right, more time upwards");
        assert_eq!((bound.0, bound_of_large.0), (small.0, large.0));
        assert_eq!(bound.1, bound_of_large.1);
        // As far above each other as the times are: 2, 8 and 18 ns.
        let ratio = (bound.1 - small.1) / (bound.1 - large.1);
        assert!((ratio - 6.0 / 16.0).abs() < 0.02, "{points:?}");
        assert!(all(&json!({})).unwrap().is_empty());
    }

    #[test]
    fn flows_are_logarithmic() {
        let run = |flows: u64| json!({ "result": { "flows": flows, "ns_per_packet": { "median": 8.0 } } });
        let results = json!({ "runs": { "engine-1K": run(1_000), "engine-30K": run(30_000), "engine-900K": run(900_000) } });
        let (_, svg) = all(&results).unwrap().remove(0);
        let at = svg.split(" cx=\"").skip(1).map(|of| of.split('"').next().unwrap().parse::<f64>().unwrap());
        let at: Vec<f64> = at.collect();
        let [first, second, third] = at[..] else { panic!("{at:?}") };
        assert!(
            ((second - first) - (third - second)).abs() <= 1.0,
            "as far apart as their quotients are: {at:?}"
        );
        assert!(svg.contains("1K") && svg.contains("1M"), "decades are labelled");
    }
}
