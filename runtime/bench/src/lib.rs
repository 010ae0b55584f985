//! `vial bench`: what VM isolation costs here, measured beside other runtimes in one run, as a user would start each of them.
//!
//! It must never know how Vial works inside: Vial is one contender among others, started as a program, with no way in that a rival
//! does not have. Measuring, statistics ([`stats`]), judgement of a measurement's worth ([`caution`]) and reports are apart from each other, and
//! [`result`] is all that passes between them: what can be shown is what is in the file.
#![forbid(unsafe_code)]

pub mod boot;
pub mod caution;
pub mod child;
pub mod compare;
pub mod contender;
pub mod counters;
pub mod density;
pub mod image;
pub mod machine;
pub mod read;
pub mod report;
pub mod result;
pub mod rounds;
pub mod run;
#[cfg(test)]
mod sample;
pub mod startup;
pub mod stats;
