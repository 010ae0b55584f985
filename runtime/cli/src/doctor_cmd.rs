//! `vial doctor`: can this machine run Vial? docs/doctor.md is the page for people.

use crate::error::{Error, Result};
use crate::output::{print_json, say, tell};
use clap::Args;
use std::path::PathBuf;
use vial_vm::doctor::{Check, Report, Status, check_kvm, gather, judge};

/// `vial doctor`
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 when Vial can run here, with warnings or without; 1 when it can't.")]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Do this check only (kvm: do Linux guests boot?)
    #[arg(long, value_name = "NAME")]
    check: Option<String>,
}

/// Runs `vial doctor`; gives the exit status.
pub fn run(args: DoctorArgs) -> i32 {
    examine(args).unwrap_or_else(|error| {
        tell(&error.to_string());
        1
    })
}

fn examine(args: DoctorArgs) -> Result<i32> {
    let checks = match args.check.as_deref() {
        // Without the rest, which takes longer: scripts ask for this one.
        Some("kvm") => vec![check_kvm()],
        Some(name) => {
            let all = judge(&gather(&data_dir()));
            let names: Vec<String> = all.iter().map(|c| c.name.clone()).collect();
            match all.into_iter().find(|c| c.name == name) {
                Some(check) => vec![check],
                None => {
                    return Err(Error::Message(format!(
                        "there is no check {name:?}; there are: {}",
                        names.join(", ")
                    )));
                }
            }
        }
        None => judge(&gather(&data_dir())),
    };
    let report = Report::from(checks);
    if args.json {
        print_json(&report)?;
    } else {
        say(&text(&report))?;
    }
    Ok(i32::from(!report.can_run))
}

fn data_dir() -> PathBuf {
    std::env::var_os("VIAL_DATA_DIR")
        .filter(|v| !v.is_empty())
        .map_or_else(|| "/var/lib/vial".into(), PathBuf::from)
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for Check { name, status, found, meaning, mend } in &report.checks {
        let mark = match status {
            Status::Ok => "ok  ",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
        };
        text += &format!("{mark}  {name:<11} {found}\n");
        for (label, words) in [("means", meaning), ("mend", mend)] {
            if !words.is_empty() {
                text += &format!("      {label:<11} {words}\n");
            }
        }
    }
    // One check says it itself.
    if report.checks.len() > 1 {
        text += if report.can_run { "\nVial can run here.\n" } else { "\nVial can not run here yet.\n" };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_to_do() {
        let check = |name: &str, status, mend: &str| Check {
            name: name.into(),
            status,
            found: "this".into(),
            meaning: mend.into(),
            mend: mend.into(),
        };
        let report = Report::from(vec![check("kvm", Status::Ok, ""), check("disk", Status::Fail, "that")]);
        let expected = "ok    kvm         this\nFAIL  disk        this\n      means       that\n      mend        that\n\n\
                        Vial can not run here yet.\n";
        assert_eq!(text(&report), expected);
    }
}
