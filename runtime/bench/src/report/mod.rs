//! A document for people: as text for terminals, as Markdown, and as one HTML file with plots.
//!
//! What is said is decided once, in [`content`], as a list of [`blocks`]; the three forms differ in how they write it down, and in the plots, which only
//! HTML has. All of it are pure functions of the document. Names, notes and reasons in it come from outside: each form takes the power out of
//! them where it writes them ([`blocks::plain`], and the form's own escapes).

pub mod blocks;
pub(crate) mod boot;
mod content;
pub(crate) mod density;
pub(crate) mod figures;
mod html;
mod loses;
mod machine;
mod markdown;
pub(crate) mod numbers;
mod plots;
pub(crate) mod startup;
mod table;

pub(crate) use content::labelled;
pub use html::html;
pub use markdown::markdown;
pub use table::{render, text};
