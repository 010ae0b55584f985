//! `vial run --timing`: when each step of a start was reached, for people and for programs.

use crate::error::Result;
use crate::units::table;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use std::sync::OnceLock;
use vial_api::TimingStep;

static BEGIN_US: OnceLock<u64> = OnceLock::new();

/// CLOCK_MONOTONIC in microseconds: the daemon's clock, and the VMM's.
pub fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Neither is negative, and the sum is far from overflow.
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

/// The command line begins, as far as it can know: the first thing that `main` does.
pub fn begin() {
    BEGIN_US.get_or_init(now_us);
}

fn begin_us() -> u64 {
    *BEGIN_US.get_or_init(now_us)
}

/// Prints a table on standard error.
pub fn print_table(steps: &[TimingStep]) {
    crate::output::remark(&in_table(steps, now_us().saturating_sub(begin_us())));
}

fn in_table(steps: &[TimingStep], whole_us: u64) -> String {
    let milliseconds = |us: u64| format!("{:.1}", us as f64 / 1000.0);
    let mut rows = Vec::new();
    let mut last = 0;
    for step in steps {
        let within = step.within_us.map_or(String::new(), |us| format!(" ±{}", milliseconds(us)));
        rows.push(vec![
            step.step.clone(),
            milliseconds(step.at_us) + &within,
            milliseconds(step.at_us.saturating_sub(last)),
        ]);
        last = step.at_us;
    }
    rows.push(vec!["the whole command".into(), milliseconds(whole_us), String::new()]);
    table(&["STEP", "AT (ms)", "TOOK (ms)"], &rows)
}

/// All on one clock, CLOCK_MONOTONIC in microseconds. Fields may be added.
#[derive(Debug, Serialize)]
struct Document<'a> {
    /// 1; another number when the meaning of a field changes.
    format: u32,
    /// `main` of the command line.
    main_us: u64,
    /// Before it connected to the daemon to ask for the container.
    request_us: u64,
    /// The daemon had read the request. Absent when the daemon is too old to tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    daemon_us: Option<u64>,
    /// What was reached, in the order of time.
    steps: Vec<Step<'a>>,
    /// Before this was printed, the last thing that the command line does.
    end_us: u64,
    /// The command line's exit status.
    code: i32,
}

#[derive(Debug, Serialize)]
struct Step<'a> {
    step: &'a str,
    at_us: u64,
    /// How far off it may be: of a step that the guest's clock told.
    #[serde(skip_serializing_if = "Option::is_none")]
    within_us: Option<u64>,
}

impl<'a> Document<'a> {
    fn new([main_us, request_us, end_us]: [u64; 3], steps: &'a [TimingStep], code: i32) -> Self {
        // The latest: of a step before the request, `at_us` says no more than that.
        let daemon_us = steps.iter().filter_map(|step| Some(step.mono_us?.saturating_sub(step.at_us))).max();
        let at = |step: &'a TimingStep| {
            // A daemon that does not tell had the request at some time after it was sent.
            let at_us = step.mono_us.unwrap_or(request_us.saturating_add(step.at_us));
            Step { step: &step.step, at_us, within_us: step.within_us }
        };
        Self {
            format: 1,
            main_us,
            request_us,
            daemon_us,
            steps: steps.iter().map(at).collect(),
            end_us,
            code,
        }
    }
}

/// Prints one line of JSON on standard error.
///
/// # Errors
/// None that plain data could have.
pub fn print_json(request_us: u64, steps: &[TimingStep], code: i32) -> Result<()> {
    let document = Document::new([begin_us(), request_us, now_us()], steps, code);
    crate::output::remark(&(serde_json::to_string(&document)? + "\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps() -> Vec<TimingStep> {
        let step = |name: &str, at_us, within_us| TimingStep {
            step: name.into(),
            at_us,
            mono_us: Some(1000 + at_us),
            within_us,
        };
        vec![step("before", 0, None), step("kernel", 1500, Some(40)), step("after", 2000, None)]
    }

    #[test]
    fn the_table_has_the_guests_uncertainty() {
        let table = in_table(&steps(), 5000);
        let line = |name: &str| table.lines().find(|line| line.starts_with(name)).map(str::to_owned);
        assert!(
            line("kernel").is_some_and(|line| line.contains("1.5 ±0.0") && line.ends_with("1.5")),
            "{table}"
        );
        assert!(line("the whole command").is_some_and(|line| line.trim_end().ends_with("5.0")), "{table}");
    }

    #[test]
    fn the_line_is_on_one_clock() {
        let document = |steps: &[TimingStep]| {
            serde_json::to_value(Document::new([900, 950, 4000], steps, 3)).unwrap_or_default()
        };
        let full = document(&steps());
        assert_eq!((&full["daemon_us"], &full["code"]), (&1000.into(), &3.into()));
        let kernel = serde_json::json!({ "step": "kernel", "at_us": 2500, "within_us": 40 });
        assert_eq!(full["steps"][1], kernel);
        // A daemon from before this.
        let old: Vec<_> = steps().into_iter().map(|step| TimingStep { mono_us: None, ..step }).collect();
        let old = document(&old);
        assert_eq!((old.get("daemon_us"), &old["steps"][2]["at_us"]), (None, &2950.into()));
    }
}
