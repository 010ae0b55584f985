//! Go's text/template as far as people use it with `docker … --format`: fields, `range`, `if`, `with`, variables, pipes, and the functions of
//! [`functions`]. Over JSON; bounded in depth, steps and output, so that no template can hang or fill anything.
//!
//! Own code, because the one crate that does this has had no release since 2021. Source: the documentation of Go's package text/template, and
//! Docker's "Format command and log output".

mod eval;
mod functions;
mod lex;
mod parse;
#[cfg(test)]
mod tests;

use serde_json::Value;

/// Why a template can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the template does not work: {0}")]
pub struct TemplateError(pub String);

type Result<T, E = TemplateError> = std::result::Result<T, E>;

fn error<T>(why: impl Into<String>) -> Result<T> {
    Err(TemplateError(why.into()))
}

/// A template that makes sense.
#[derive(Debug, Clone, PartialEq)]
pub struct Template(Vec<parse::Node>);

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// When it makes no sense, or is longer or deeper than anybody means.
    pub fn parse(text: &str) -> Result<Self> {
        parse::parse(text).map(Self)
    }

    /// Fills it in.
    ///
    /// # Errors
    /// When it asks for what is not there, or goes on for too long.
    pub fn fill(&self, data: &Value) -> Result<String> {
        eval::fill(&self.0, data)
    }
}
