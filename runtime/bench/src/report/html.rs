//! One HTML file that opens offline, without scripts: its policy forbids every script and every request, so nothing that came from outside can do either.

use super::blocks::{Block, Plot, Table, shell};
use super::boot::{ROOMS, room_times};
use super::content::{content, labelled};
use super::figures::{Group, groups};
use super::machine::mitigations;
use super::plots::{self, Ink, escape, escape_whole, ink};
use super::startup;
use crate::result::{Document, MachineKind, Weight};
use base64::Engine;
use std::fmt::Write;

const STYLE: &str = include_str!("style.css");

/// The report as one file.
pub fn html(document: &Document) -> String {
    let groups = groups(document);
    let blocks = content(document, &groups);
    let title = blocks
        .iter()
        .find_map(|block| if let Block::Heading(1, title) = block { Some(title.as_str()) } else { None });
    let mut body = String::new();
    for block in &blocks {
        self::block(&mut body, document, &groups, block);
    }
    let (mitigations, data) = (self::mitigations_of(document), raw(document));
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <link rel=\"icon\" href=\"data:,\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}{mitigations}{data}</main>\n</body>\n</html>\n",
        escape(title.unwrap_or("vial bench")),
    )
}

fn block(html: &mut String, document: &Document, groups: &[Group<'_>], block: &Block) {
    // Writing to a string does not fail.
    let _ = match block {
        Block::Heading(level, text) => writeln!(html, "<h{level}>{}</h{level}>", escape(text)),
        Block::Text(text) => writeln!(html, "<p>{}</p>", escape(text)),
        Block::Caution(weight, text) => {
            let (class, label) = label(*weight);
            writeln!(html, "<p class=\"caution {class}\"><strong>{label}</strong> {}</p>", escape(text))
        }
        Block::List(items) => {
            let items: String = items.iter().map(|item| format!("<li>{}</li>\n", escape(item))).collect();
            writeln!(html, "<ul>\n{items}</ul>")
        }
        Block::Table(of) => writeln!(html, "{}", table(document, of)),
        Block::Commands(commands) => {
            let one = |(what, line): &(String, Vec<String>)| {
                format!("<dt>{}</dt><dd><code>{}</code></dd>\n", escape(what), escape_whole(&shell(line)))
            };
            let all: String = commands.iter().map(one).collect();
            writeln!(html, "<dl>\n{all}</dl>")
        }
        Block::Plot(plot) => writeln!(html, "{}", figures(document, groups, *plot)),
    };
}

fn label(weight: Weight) -> (&'static str, &'static str) {
    match weight {
        Weight::Grave => ("grave", "Do not use these figures as they stand:"),
        Weight::Warning => ("warning", "Warning:"),
        Weight::Note => ("note", "Note:"),
    }
}

fn table(document: &Document, table: &Table) -> String {
    let cell = |tag: &str, words: bool, content: &str| {
        let class = if words { " class=\"words\"" } else { "" };
        format!("<{tag}{class}>{content}</{tag}>")
    };
    let head: String = table.columns.iter().map(|c| cell("th", c.words, &escape(&c.name))).collect();
    let mut rows = String::new();
    for row in &table.rows {
        let mut cells = String::new();
        for (at, (content, column)) in row.iter().zip(&table.columns).enumerate() {
            let swatch =
                if at == 0 && table.of_contenders { swatch(ink(document, content)) } else { String::new() };
            cells += &cell("td", column.words, &format!("{swatch}{}", escape(content)));
        }
        let _ = writeln!(rows, "<tr>{cells}</tr>");
    }
    // Wider than a telephone: the table is moved, not the page. It takes part in the order of the keyboard, so that it can be without a mouse.
    format!(
        "<div class=\"wide\" tabindex=\"0\"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>"
    )
}

fn swatch(ink: Ink) -> String {
    format!("<i style=\"background:{}\"></i>", ink.variable())
}

/// What each colour means.
type Legend = Vec<(Ink, String)>;
/// Plots with their titles; none where nothing can be drawn.
type Svgs = Vec<(String, Option<String>)>;

/// Plots beside each other, with one legend for them.
fn figures(document: &Document, groups: &[Group<'_>], plot: Plot) -> String {
    let (legend, plots): (Legend, Svgs) = match plot {
        Plot::Startup(scenario, concurrency) => {
            let Some(group) = groups.iter().find(|g| g.scenario == scenario && g.concurrency == concurrency)
            else {
                return String::new();
            };
            let what = startup::name(group);
            let cdf = format!("Share of starts {what} within a time");
            let boxes = format!("Starts {what}: median, middle half, each start a dot");
            let names = group.starts.iter().filter(|s| !s.of.samples_ms.is_empty()).map(|s| &s.of.contender);
            (
                names.map(|name| (ink(document, name), name.clone())).collect(),
                vec![
                    (cdf.clone(), plots::cdf(document, group, &cdf)),
                    (boxes.clone(), plots::boxes(document, group, &boxes)),
                ],
            )
        }
        Plot::Waterfall => {
            let title = "The median start, each step from the one before it, in ms".to_owned();
            let used =
                ROOMS.iter().filter(|(room, _)| room_times(&document.boot, *room).iter().any(|t| *t > 0.0));
            let legend = used.map(|(room, name)| (plots::room_ink(*room), (*name).to_owned())).collect();
            (legend, vec![(title.clone(), plots::waterfall(document, &title))])
        }
        Plot::Density => {
            let title = "Memory of all pods against their number".to_owned();
            let legend = document
                .density
                .iter()
                .map(|of| (ink(document, &of.contender), of.contender.clone()))
                .collect();
            (legend, vec![(title.clone(), plots::density(document, &title))])
        }
    };
    let emulated = document.machine.kind == MachineKind::Emulated;
    let plots: String = plots
        .into_iter()
        .filter_map(|(title, svg)| {
            Some(format!(
                "<figure>\n<figcaption>{}</figcaption>\n{}</figure>\n",
                escape(&labelled(&title, emulated)),
                svg?
            ))
        })
        .collect();
    if plots.is_empty() {
        return String::new();
    }
    let legend: String =
        legend.iter().map(|(ink, name)| format!("<span>{}{}</span>\n", swatch(*ink), escape(name))).collect();
    format!("<p class=\"legend\">\n{legend}</p>\n<div class=\"plots\">\n{plots}</div>")
}

fn mitigations_of(document: &Document) -> String {
    let found = mitigations(document);
    if found.is_empty() {
        return String::new();
    }
    let all: String = found
        .iter()
        .map(|(fault, answer)| format!("<dt>{}</dt><dd>{}</dd>\n", escape(fault), escape(answer)))
        .collect();
    format!("<h2>What Linux does against faults of the processor</h2>\n<dl>\n{all}</dl>\n")
}

/// The document itself: to be saved by hand, and to be found by programs.
fn raw(document: &Document) -> String {
    // A document is strings, numbers and lists: it can always be written.
    let json = serde_json::to_string(document).unwrap_or_default();
    let link = base64::engine::general_purpose::STANDARD.encode(&json);
    // In JSON `<` is only in strings, where it may be written so; then nothing in it ends the element, or begins a comment in it.
    let json = json.replace('<', "\\u003c");
    format!(
        "<h2>Raw data</h2>\n<p><a download=\"vial-bench.json\" href=\"data:application/json;base64,{link}\">Save the document with all samples</a>; <code>vial bench compare</code> takes it.</p>\n\
         <script type=\"application/json\" id=\"document\">{json}</script>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn it_needs_nothing_from_elsewhere_and_runs_nothing() {
        let html = html(&sample::document());
        for word in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!html.contains(word), "{word}");
        }
        assert_eq!(html.matches("<script").count(), 1);
        assert!(html.contains("default-src 'none'"));
        assert_eq!(html.matches("<svg").count(), 10);
        assert!(html.contains("spectre_v2") && html.contains("qemu-system-x86_64 -M"));
    }

    #[test]
    fn nothing_from_outside_becomes_markup() {
        let html = html(&sample::evil());
        assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
        assert!(!html.contains("<script>") && !html.contains("<img") && !html.contains("<!--"));
        assert_eq!(html.matches("</script>").count(), 1);
    }

    #[test]
    fn the_document_in_it_is_the_document() {
        for document in [sample::document(), sample::evil()] {
            let html = html(&document);
            let (_, json) = html.split_once("id=\"document\">").unwrap();
            let (json, _) = json.split_once("</script>").unwrap();
            assert_eq!(Document::read(json.as_bytes()).unwrap(), document);
            let (_, link) = html.split_once("base64,").unwrap();
            let saved =
                base64::engine::general_purpose::STANDARD.decode(link.split('"').next().unwrap()).unwrap();
            assert_eq!(Document::read(&saved).unwrap(), document);
        }
    }

    #[test]
    fn every_plot_of_an_emulated_host_says_so() {
        let mut document = sample::document();
        document.machine.kind = MachineKind::Emulated;
        let html = html(&document);
        let captions: Vec<&str> = html.split("<figcaption>").skip(1).collect();
        assert_eq!(captions.len(), 10);
        assert!(captions.iter().all(|c| c.split('<').next().is_some_and(|c| c.contains("EMULATED HOST"))));
    }

    #[test]
    fn an_empty_document_and_one_contender_are_reports_too() {
        assert!(html(&sample::empty()).contains("Nothing was measured."));
        let mut document = sample::document();
        document.contenders.truncate(1);
        document.startup.retain(|s| s.contender == "vial");
        document.density.truncate(1);
        let html = html(&document);
        assert!(html.contains("Nothing could be compared") && html.matches("<svg").count() == 10);
    }
}
