//! Pictures of counts over days: bars for a terminal, curves for a file.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};
use reauth_sdk::{Moment, Span};

use crate::failure::{Failure, Result};
use crate::times;

const BAR_CELLS_MAX: u64 = 20;
const SIZE: (u32, u32) = (1_000, 420);
const FONT: &str = "sans-serif";
const BEFORE: RGBColor = RGBColor(140, 140, 140);
const AFTER: RGBColor = RGBColor(0, 90, 181);

/// A bar as long as a count is beside the most.
pub(crate) fn bar(count: u64, most: u64) -> String {
    let cells = count.saturating_mul(BAR_CELLS_MAX).div_ceil(most.max(1));
    (0..cells.min(BAR_CELLS_MAX)).map(|_| '█').collect()
}

/// Writes two named curves of counts a day to a file, by its extension: `svg` or `png`.
pub(crate) fn write(
    path: &Path,
    title: &str,
    from: Moment,
    curves: &[(&str, Vec<u64>); 2],
) -> Result<()> {
    let cannot = |why: String| Failure::new(format!("{} cannot be written: {why}", path.display()));
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let font = register_font(FONT, FontStyle::Normal, dejavu::sans::regular());
    font.map_err(|_| cannot("the font cannot be read".into()))?;
    match extension {
        "svg" => draw(SVGBackend::new(path, SIZE), title, from, curves),
        "png" => draw(BitMapBackend::new(path, SIZE), title, from, curves),
        _ => {
            let help = "name the file with .svg or .png at its end";
            return Err(Failure::usage("a chart is written as SVG or PNG").help(help));
        }
    }
    .map_err(cannot)
}

fn draw(
    backend: impl DrawingBackend,
    title: &str,
    from: Moment,
    curves: &[(&str, Vec<u64>); 2],
) -> Result<(), String> {
    let [(before_name, before), (after_name, after)] = curves;
    let days = before.len().max(after.len());
    let most = before.iter().chain(after).copied().max().unwrap_or(0).max(1);
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let area = backend.into_drawing_area();
    area.fill(&WHITE).map_err(|e| text(&e))?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, (FONT, 20))
        .margin(16)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(0..days, 0..most + most.div_ceil(4))
        .map_err(|e| text(&e))?;
    let date = |day: &usize| {
        let moment = from.after(Span::from_seconds(*day as i64 * 86_400));
        times::at(moment).split(' ').next().unwrap_or_default().to_owned()
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(7)
        .x_label_formatter(&date)
        .label_style((FONT, 13))
        .draw()
        .map_err(|e| text(&e))?;
    for (name, counts, colour) in [(before_name, before, BEFORE), (after_name, after, AFTER)] {
        // Steps: a day's count holds for the whole day.
        let steps =
            counts.iter().enumerate().flat_map(|(day, count)| [(day, *count), (day + 1, *count)]);
        chart
            .draw_series(LineSeries::new(steps, colour.stroke_width(2)))
            .map_err(|e| text(&e))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .label_font((FONT, 13))
        .background_style(WHITE.mix(0.8))
        .draw()
        .map_err(|e| text(&e))?;
    area.present().map_err(|e| text(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_count_and_none_is_lost() {
        assert_eq!(bar(0, 10), "");
        assert_eq!(bar(1, 1_000), "█");
        assert_eq!(bar(5, 10), "█".repeat(10));
        assert_eq!(bar(10, 10), "█".repeat(20));
        assert_eq!(bar(3, 0), "█".repeat(20));
    }

    #[test]
    fn a_chart_is_a_picture_of_its_kind() {
        let folder = tempfile::tempdir().expect("a folder");
        let from = "2026-05-03T08:12:00Z".parse().expect("a moment");
        let curves = [("as it is", vec![0, 3, 9]), ("with these policies", vec![12, 0, 4])];
        for (name, start) in [("a.svg", "<svg".as_bytes()), ("a.png", b"\x89PNG")] {
            let path = folder.path().join(name);
            write(&path, "Forced sign-ins a day", from, &curves).expect("it is written");
            let bytes = std::fs::read(&path).expect("a file");
            assert!(bytes.starts_with(start), "{name}");
        }
        let svg = std::fs::read_to_string(folder.path().join("a.svg")).expect("a text");
        assert!(svg.contains("with these policies") && svg.contains("2026-05-03"), "{svg}");
        assert!(write(&folder.path().join("a.gif"), "", from, &curves).is_err());
        assert!(write(Path::new("/nowhere/a.svg"), "", from, &curves).is_err());
    }
}
