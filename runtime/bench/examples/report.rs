//! Makes reports of a document again: `cargo run -p vial-bench --example report -- FILE.json OUT.html|OUT.md|-`.

use std::error::Error;
use vial_bench::report;
use vial_bench::result::Document;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = arguments.as_slice() else {
        return Err("usage: report FILE.json OUT.html|OUT.md|-".into());
    };
    let document = Document::read(&std::fs::read(from)?)?;
    match to.rsplit_once('.') {
        Some((_, "html")) => std::fs::write(to, report::html(&document))?,
        Some((_, "md")) => std::fs::write(to, report::markdown(&document))?,
        _ => print!("{}", report::text(&document)),
    }
    Ok(())
}
