//! Reading a document from a file that anybody may have written.
//!
//! What is accepted can be computed with and shown: every time, size and share is finite and not negative, and there is so little of it that a
//! report of it can be made.

use crate::result::{Document, FORMAT, Startup, Waterfall};
use serde::Deserialize;
use thiserror::Error;

/// The largest file that is read: a hundred times what a long measurement fills.
pub const MAX_BYTES: usize = 64 << 20;
/// The most entries of each list in it; samples, failures and counts of one entry of `startup` too.
pub const MAX_ENTRIES: usize = 20_000;

/// Why a file is not a document.
#[derive(Debug, Error)]
pub enum ReadError {
    /// Larger than [`MAX_BYTES`].
    #[error(
        "the file has {0} bytes, and at most {MAX_BYTES} are read: is it a result of `vial bench --json`?"
    )]
    TooLarge(usize),
    /// No JSON, or JSON of something else.
    #[error("this is no result of `vial bench`: {0}; give it a file that `vial bench … --json FILE` wrote")]
    NotADocument(#[from] serde_json::Error),
    /// Another version.
    #[error(
        "the file has format {0}, and this vial reads format {FORMAT}: read it with the vial that wrote it, or measure again"
    )]
    OtherFormat(u64),
    /// A figure that can't be one.
    #[error(
        "{what} is {value}, which no measurement gives: the file is damaged or was edited; measure again"
    )]
    BadFigure {
        /// Which figure.
        what: String,
        /// What it is.
        value: f64,
    },
    /// More than [`MAX_ENTRIES`] of something.
    #[error(
        "there are {count} {what}, and at most {MAX_ENTRIES} are read: the file is damaged or was edited"
    )]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
    },
}

/// The one field that every version has.
#[derive(Deserialize)]
struct Version {
    format: u64,
}

impl Document {
    /// Reads a document, and checks that it can be computed with.
    ///
    /// # Errors
    /// [`ReadError`]; the version is looked at first, so that the file of another vial is called that and not damaged.
    pub fn read(bytes: &[u8]) -> Result<Self, ReadError> {
        if bytes.len() > MAX_BYTES {
            return Err(ReadError::TooLarge(bytes.len()));
        }
        let version: Version = serde_json::from_slice(bytes)?;
        if version.format != u64::from(FORMAT) {
            return Err(ReadError::OtherFormat(version.format));
        }
        let document: Self = serde_json::from_slice(bytes)?;
        check(&document)?;
        Ok(document)
    }
}

fn check(document: &Document) -> Result<(), ReadError> {
    figure("took_s", document.took_s)?;
    figure("machine.load", document.machine.load)?;
    figure("machine.busy", document.machine.busy)?;
    few("contenders", document.contenders.len())?;
    few("entries of startup", document.startup.len())?;
    few("runs of boot", document.boot.len())?;
    few("entries of density", document.density.len())?;
    few("cautions", document.cautions.len())?;
    document.startup.iter().try_for_each(startup)?;
    document.boot.iter().try_for_each(waterfall)?;
    for density in &document.density {
        few("points of density", density.points.len())?;
        figure("density.rest_s", density.rest_s)?;
        figure("density.cpu_percent_per_pod", density.cpu_percent_per_pod.unwrap_or(0.0))?;
    }
    Ok(())
}

fn startup(of: &Startup) -> Result<(), ReadError> {
    few("samples", of.samples_ms.len())?;
    few("rounds", of.rounds_ms.len())?;
    few("failures", of.failures.len())?;
    few("counts", of.counts.len())?;
    of.samples_ms.iter().chain(&of.rounds_ms).try_for_each(|ms| figure("a time of startup", *ms))
}

fn waterfall(of: &Waterfall) -> Result<(), ReadError> {
    few("steps of a boot", of.steps.len())?;
    figure("boot.total_ms", of.total_ms)?;
    figure("boot.request_ms", of.request_ms)?;
    of.steps.iter().try_for_each(|step| figure("boot.steps.at_ms", step.at_ms))
}

/// A time, a share or a size: a year in milliseconds is 3 · 10¹⁰, a millionth of one is shorter than a clock's step. What is far beyond either makes
/// sums that are not finite, ratios that are no numbers, and axes without end.
fn figure(what: &str, value: f64) -> Result<(), ReadError> {
    if value == 0.0 || (1e-6..1e11).contains(&value) {
        return Ok(());
    }
    Err(ReadError::BadFigure { what: what.to_owned(), value })
}

fn few(what: &'static str, count: usize) -> Result<(), ReadError> {
    if count <= MAX_ENTRIES { Ok(()) } else { Err(ReadError::TooMany { what, count }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use proptest::prelude::*;
    use serde_json::Value;

    fn with(change: impl FnOnce(&mut Value)) -> Result<Document, ReadError> {
        let mut value = serde_json::to_value(sample::document()).unwrap();
        change(&mut value);
        Document::read(&serde_json::to_vec(&value).unwrap())
    }

    #[test]
    fn what_was_written_is_read_and_fields_of_a_newer_vial_are_passed_over() {
        let document = sample::document();
        assert_eq!(Document::read(&serde_json::to_vec(&document).unwrap()).unwrap(), document);
        assert_eq!(with(|v| v["phase_of_the_moon"] = "new".into()).unwrap(), document);
    }

    #[test]
    fn another_format_is_called_that_whatever_else_it_holds() {
        let error = Document::read(br#"{"format": 2, "all": "different"}"#).unwrap_err();
        assert!(matches!(error, ReadError::OtherFormat(2)), "{error}");
        assert!(error.to_string().contains("measure again"));
        assert!(Document::read(b"not json").unwrap_err().to_string().contains("--json FILE"));
    }

    #[test]
    fn figures_that_no_measurement_gives_are_refused() {
        for bad in ["-1.0", "1e300", "1e-300", "null"] {
            let bad: Value = serde_json::from_str(bad).unwrap();
            assert!(with(|v| v["startup"][0]["samples_ms"][0] = bad.clone()).is_err(), "{bad}");
            assert!(with(|v| v["boot"][0]["steps"][0]["at_ms"] = bad.clone()).is_err(), "{bad}");
        }
        assert!(with(|v| v["density"][0]["rest_s"] = (-2.0).into()).is_err());
        let error =
            with(|v| v["cautions"] = vec![v["cautions"][0].clone(); MAX_ENTRIES + 1].into()).unwrap_err();
        assert!(matches!(error, ReadError::TooMany { what: "cautions", .. }), "{error}");
    }

    proptest! {
        #[test]
        fn a_damaged_file_never_panics(at in 0usize..10_000, byte: u8) {
            let mut bytes = serde_json::to_vec(&sample::document()).unwrap();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = Document::read(&bytes);
        }
    }
}
