//! Plots as SVG, drawn by `plotters` without fonts.
//!
//! What the theme decides can't be drawn as a colour: each is drawn as a colour of its own that means nothing, and then exchanged for a CSS variable, so that one SVG serves
//! light and dark. Without fonts `plotters` only guesses how wide a text is; SVG places texts by their anchors, which needs no width, so legends, the one
//! thing that does, are HTML's. Coordinates are whole numbers, so the canvas is twice as fine as it is shown.

mod boxes;
mod cdf;
mod density;
mod scale;
mod waterfall;

use super::blocks::plain;
use super::figures::{BASE, Group};
use crate::result::{ContenderState, Document};
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use scale::Scale;

pub use boxes::boxes;
pub use cdf::cdf;
pub use density::density;
pub use waterfall::{room_ink, waterfall};

/// Width of all plots in the units they are drawn in.
const WIDTH: u32 = 1040;
/// The size of texts as `plotters` counts it, which is 1.24 times what SVG gets.
const FONT: f64 = 39.0;
/// Colours of contenders; more share them.
pub const COLOURS: usize = 10;

/// What can be drawn with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    /// Texts and axes.
    Text,
    /// Lines of the grid.
    Grid,
    /// A contender, by its number.
    Contender(usize),
    /// A room of the boot, by its number.
    Room(usize),
}

impl Ink {
    /// The colour that stands for it until the end.
    fn rgb(self) -> RGBColor {
        let (kind, number) = match self {
            Self::Text => (0, 0),
            Self::Grid => (1, 0),
            Self::Contender(number) => (2, number % COLOURS),
            Self::Room(number) => (3, number),
        };
        RGBColor(0xfe, kind, u8::try_from(number).unwrap_or(0))
    }

    /// The CSS variable.
    pub fn variable(self) -> String {
        match self {
            Self::Text => "var(--text)".to_owned(),
            Self::Grid => "var(--grid)".to_owned(),
            Self::Contender(number) => format!("var(--c{})", number % COLOURS),
            Self::Room(number) => format!("var(--r{number})"),
        }
    }

    fn all() -> impl Iterator<Item = Self> {
        [Self::Text, Self::Grid]
            .into_iter()
            .chain((0..COLOURS).map(Self::Contender))
            .chain((0..8).map(Self::Room))
    }
}

/// The ink of a contender, the same in every plot: the base's is the first, those who can't be measured take none.
pub fn ink(document: &Document, name: &str) -> Ink {
    let measured =
        document.contenders.iter().filter(|c| c.state == ContenderState::Measured && c.name != BASE);
    let place = measured.map(|c| c.name.as_str()).position(|other| other == name);
    match (name == BASE, place) {
        (true, _) => Ink::Contender(0),
        (false, Some(place)) => Ink::Contender(1 + place % (COLOURS - 1)),
        (false, None) => Ink::Text,
    }
}

type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<Scale, Scale>>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// An SVG of a height, drawn by a function, with a title for those who hear it. None when it can't be drawn (an axis without extent, say).
fn svg(title: &str, height: u32, draw: impl FnOnce(&Canvas<'_>) -> Drawn) -> Option<String> {
    let mut svg = String::new();
    let canvas = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
    draw(&canvas).and_then(|()| Ok(canvas.present()?)).ok()?;
    drop(canvas);
    let (_, mut body) = svg.split_once(">\n").map(|(head, body)| (head, body.to_owned()))?;
    for ink in Ink::all() {
        let RGBColor(red, green, blue) = ink.rgb();
        // With the quotes, which no text can have: it is escaped.
        body =
            body.replace(&format!("\"#{red:02X}{green:02X}{blue:02X}\""), &format!("\"{}\"", ink.variable()));
    }
    Some(format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\"><title>{}</title>\n{body}",
        escape(title)
    ))
}

/// A text from outside as HTML and SVG take it, inside of elements and of quoted attributes.
pub fn escape(text: &str) -> String {
    escape_whole(&plain(text))
}

/// The same of a text without control characters, with all its blanks, however long.
pub fn escape_whole(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(c),
        }
    }
    escaped
}

fn text_style(ink: Ink, h_pos: HPos, v_pos: VPos) -> TextStyle<'static> {
    // "inherit" is what SVG then takes from the page.
    TextStyle { color: ink.rgb().to_backend_color(), ..("inherit", FONT).into() }.pos(Pos::new(h_pos, v_pos))
}

/// What the axis of times is called.
fn times_axis(scale: &Scale) -> &'static str {
    if scale.is_logarithmic() { "ms (logarithmic)" } else { "ms" }
}

/// Axes with a grid, in the theme's inks. `rows` are names that stand to the left instead of figures: one for each whole number, from the top.
fn axes<'a>(
    canvas: &Canvas<'a>,
    (left, x, x_name): (u32, Scale, &str),
    (y, y_name): (Scale, &str),
    rows: Option<&[String]>,
) -> Result<Chart<'a>, Box<dyn std::error::Error>> {
    let low = x.low();
    let mut chart = ChartBuilder::on(canvas)
        .margin_top(28)
        .margin_left(12)
        .margin_right(40)
        .x_label_area_size(112)
        .y_label_area_size(left)
        .build_cartesian_2d(x, y)?;
    let mut mesh = chart.configure_mesh();
    mesh.axis_style(Ink::Grid.rgb().stroke_width(2))
        .bold_line_style(Ink::Grid.rgb().stroke_width(1))
        .max_light_lines(0)
        .label_style(text_style(Ink::Text, HPos::Center, VPos::Center))
        .set_all_tick_mark_size(8)
        .x_desc(x_name);
    if rows.is_some() {
        mesh.disable_y_mesh().y_labels(0).disable_y_axis();
    } else {
        mesh.y_desc(y_name);
    }
    mesh.draw()?;
    for (row, name) in rows.into_iter().flatten().enumerate() {
        let style = text_style(Ink::Text, HPos::Right, VPos::Center);
        let at = EmptyElement::at((low, row as f64 + 0.5));
        chart.draw_series([at + Text::new(name.clone(), (-16, 0), style)])?;
    }
    Ok(chart)
}

/// A name that fits beside an axis, so many ems wide at most. Widths are those of the widest usual font (DejaVu Sans), as nobody knows which one there is.
fn short(name: &str, ems: f64) -> String {
    let width = |c: char| match c {
        'i' | 'j' | 'l' | '.' | ',' | ':' | ';' | '\'' | '|' | ' ' | '/' | '-' | 'f' | 't' | 'r' | '('
        | ')' => 0.42,
        'm' | 'w' | 'M' | 'W' | '@' | '%' | '…' => 1.0,
        'a'..='z' | '0'..='9' => 0.64,
        _ if c.is_ascii() => 0.84,
        _ => 1.1,
    };
    let name = plain(name);
    if name.chars().map(width).sum::<f64>() <= ems {
        return name;
    }
    let mut left = ems - width('…');
    let fits = |c: &char| {
        left -= width(*c);
        left >= 0.0
    };
    name.chars().take_while(fits).chain(['…']).collect()
}

/// Those of a group who have samples, with their ink.
fn drawn<'a>(document: &Document, group: &'a Group<'_>) -> Vec<(&'a str, &'a [f64], Ink)> {
    let starts = group.starts.iter().map(|starts| starts.of).filter(|of| !of.samples_ms.is_empty());
    starts.map(|of| (of.contender.as_str(), of.samples_ms.as_slice(), ink(document, &of.contender))).collect()
}

/// Smallest and largest of figures.
fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |extent, value| {
        Some(extent.map_or((value, value), |(low, high): (f64, f64)| (low.min(value), high.max(value))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::figures::groups;
    use crate::sample;

    fn all(document: &Document) -> Vec<String> {
        let mut plots = Vec::new();
        for group in groups(document) {
            plots.extend([cdf(document, &group, "a"), boxes(document, &group, "b")].into_iter().flatten());
        }
        plots.extend([waterfall(document, "c"), density(document, "d")].into_iter().flatten());
        plots
    }

    #[test]
    fn every_plot_is_drawn_in_the_theme_s_colours_only() {
        let plots = all(&sample::document());
        assert_eq!(plots.len(), 10);
        for plot in plots {
            assert!(!plot.contains("\"#") && plot.contains("var(--text)"), "{plot}");
            assert!(plot.starts_with("<svg ") && plot.trim_end().ends_with("</svg>"));
        }
    }

    #[test]
    fn names_beside_axes_are_cut_by_their_width() {
        assert_eq!(short("qemu-microvm", 8.9), "qemu-microvm");
        assert_eq!(short("iiiiiiiiiiiiiiiiiii", 8.9), "iiiiiiiiiiiiiiiiiii");
        assert_eq!(short("WWWWWWWWWWW", 8.9), "WWWWWWW…");
        assert_eq!(short("", 0.0), "");
    }

    #[test]
    fn names_from_outside_stay_text() {
        for plot in all(&sample::evil()) {
            assert!(!plot.contains("<script") && !plot.contains("<img"), "{plot}");
        }
    }

    #[test]
    fn one_sample_zeros_and_nothing_are_drawn_or_left_out_without_a_panic() {
        let mut document = sample::document();
        document.startup.iter_mut().for_each(|s| s.samples_ms.truncate(1));
        document.density.iter_mut().for_each(|d| d.points.truncate(1));
        assert_eq!(all(&document).len(), 10);
        document.startup.iter_mut().for_each(|s| s.samples_ms = vec![0.0]);
        document.boot.iter_mut().for_each(|b| b.total_ms = 0.0);
        document.boot.iter_mut().for_each(|b| b.steps.clear());
        document.density.iter_mut().for_each(|d| d.points.clear());
        all(&document);
        document.startup.iter_mut().for_each(|s| s.samples_ms = vec![9e14, 0.0]);
        all(&document);
        assert!(all(&sample::empty()).is_empty());
    }

    #[test]
    fn a_contender_keeps_its_colour_and_the_base_has_the_first() {
        let document = sample::document();
        assert_eq!(ink(&document, "vial"), Ink::Contender(0));
        assert_eq!(ink(&document, "runc"), Ink::Contender(1));
        assert_eq!(ink(&document, "qemu-microvm"), Ink::Contender(4));
        assert_eq!(ink(&document, "stranger"), Ink::Text);
    }
}
