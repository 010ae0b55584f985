//! Documents for tests: that of `tests/sample.json`, whose figures are made up, and others made of it.

use crate::result::Document;

/// All of it.
pub fn document() -> Document {
    Document::read(include_bytes!("../tests/sample.json")).unwrap()
}

/// The same with nothing measured.
pub fn empty() -> Document {
    Document {
        contenders: Vec::new(),
        startup: Vec::new(),
        boot: Vec::new(),
        density: Vec::new(),
        cautions: Vec::new(),
        ..document()
    }
}

/// What a program that hates reports would call itself.
pub const EVIL: &str = "<script>alert(1)</script>";

/// The same with a contender, notes, reasons and steps from somebody who hates reports.
pub fn evil() -> Document {
    let json = serde_json::to_string(&document()).unwrap();
    let json = json.replace("\"crun\"", &serde_json::to_string(EVIL).unwrap());
    let mut document = Document::read(json.as_bytes()).unwrap();
    let evil =
        format!("{EVIL}\"><img src=x onerror=alert(1)>|`\u{1b}[31m\r\n\n# a heading --> ]]> <!--<script>");
    for contender in &mut document.contenders {
        contender.title = evil.clone();
        contender.notes = vec![evil.clone()];
        contender.commands.insert(evil.clone(), vec![evil.clone()]);
    }
    document.boot.iter_mut().flat_map(|run| &mut run.steps).for_each(|step| step.name = evil.clone());
    document.startup.iter_mut().flat_map(|of| &mut of.failures).for_each(|f| f.reason = evil.clone());
    document.density.iter_mut().for_each(|of| of.ended = evil.clone());
    document.cautions.iter_mut().for_each(|caution| caution.text = evil.clone());
    document.machine.mitigations.insert(evil.clone(), evil.clone());
    document.command = vec![evil];
    document
}
