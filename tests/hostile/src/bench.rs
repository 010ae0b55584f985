//! A measurement's document, which `vial bench compare` takes from anybody.

use vial_bench::compare::{compare, text};
use vial_bench::report;
use vial_bench::result::Document;

/// With more samples, a resampling takes longer than a fuzzer has.
const FEW: usize = 200;

/// What is accepted can be written and read again, shown in every form, and compared; and none of its texts becomes markup or speaks to a terminal.
pub fn document(bytes: &[u8]) {
    let Ok(document) = Document::read(bytes) else { return };
    Document::read(&serde_json::to_vec(&document).unwrap()).expect("what was accepted is accepted again");
    let samples: usize = document.startup.iter().map(|of| of.samples_ms.len() + of.counts.len()).sum();
    let steps: usize = document.boot.iter().map(|run| 1 + run.steps.len()).sum();
    if samples + steps + document.startup.len() > FEW {
        return;
    }
    let shown = [report::text(&document), text(&compare(&document, &document))];
    assert!(shown.iter().all(|text| text.chars().all(|c| c == '\n' || !c.is_control())));
    report::markdown(&document);
    let html = report::html(&document);
    assert_eq!((html.matches("<script").count(), html.matches("</script").count()), (1, 1));
    assert!(!html.contains("<!--"));
}
