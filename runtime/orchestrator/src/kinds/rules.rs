//! Small rules that many kinds share.

use crate::object;
use crate::status::{Cause, CauseKind};
use serde_json::Value;
use std::net::IpAddr;

/// Must be there and not empty.
pub(super) fn required(causes: &mut Vec<Cause>, value: &Value, path: &[&str], field: &str) {
    let is_there = object::at(value, path).is_some_and(|found| match found {
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Null => false,
        _ => true,
    });
    if !is_there {
        causes.push(Cause::new(CauseKind::Required, field, ""));
    }
}

/// Must be one of these, if it is there.
pub(super) fn one_of(causes: &mut Vec<Cause>, value: &Value, path: &[&str], field: &str, allowed: &[&str]) {
    if let Some(found) = object::at(value, path).and_then(Value::as_str)
        && !allowed.contains(&found)
    {
        let names: Vec<String> = allowed.iter().map(|name| format!("{name:?}")).collect();
        let message = format!("{found:?}: supported values: {}", names.join(", "));
        causes.push(Cause::new(CauseKind::NotSupported, field, message));
    }
}

/// Must be in this range, if it is there.
pub(super) fn in_range(
    causes: &mut Vec<Cause>,
    value: &Value,
    path: &[&str],
    field: &str,
    range: std::ops::RangeInclusive<i64>,
) {
    if let Some(found) = object::number(value, path)
        && !range.contains(&found)
    {
        let message = match *range.end() {
            i64::MAX if *range.start() == 0 => format!("{found}: must be greater than or equal to 0"),
            i64::MAX => format!("{found}: must be greater than or equal to {}", range.start()),
            end => format!("{found}: must be between {} and {end}, inclusive", range.start()),
        };
        causes.push(Cause::new(CauseKind::Invalid, field, message));
    }
}

/// Must be as it was.
pub(super) fn immutable(causes: &mut Vec<Cause>, old: &Value, new: &Value, path: &[&str], field: &str) {
    if object::at(old, path) != object::at(new, path) {
        causes.push(Cause::new(CauseKind::Invalid, field, "field is immutable"));
    }
}

/// A name that is a DNS label.
pub(super) fn dns_label(causes: &mut Vec<Cause>, name: &str, field: &str) {
    if name.is_empty() {
        causes.push(Cause::new(CauseKind::Required, field, ""));
    } else if !object::is_dns_label(name) {
        let message =
            format!("{name:?}: a name has 1 to 63 characters of a-z, 0-9 and '-', with no '-' at its ends");
        causes.push(Cause::new(CauseKind::Invalid, field, message));
    }
}

/// Must be an address.
pub(super) fn address(causes: &mut Vec<Cause>, ip: &str, field: &str) {
    if ip.parse::<IpAddr>().is_err() {
        let message = format!("{ip:?}: must be a valid IP address");
        causes.push(Cause::new(CauseKind::Invalid, field, message));
    }
}
