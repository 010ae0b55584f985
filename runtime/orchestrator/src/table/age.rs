//! Spans of time as kubectl writes them (apimachinery's `duration.HumanDuration`).

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

/// `5s`, `2m30s`, `15m`, `3h20m`, `26h`, `3d4h`, `10d`, `2y5d`.
pub fn human(span: TimeDelta) -> String {
    let seconds = span.num_seconds();
    if seconds < -1 {
        return "<invalid>".into();
    }
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |first: i64, first_unit: &str, second: i64, second_unit: &str| match second {
        0 => format!("{first}{first_unit}"),
        _ => format!("{first}{first_unit}{second}{second_unit}"),
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        _ if days < 730 => format!("{days}d"),
        _ if days < 2920 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// How long ago the time in `value` was.
pub(super) fn since(value: Option<&Value>, now: DateTime<Utc>) -> Value {
    match time(value) {
        Some(time) => human(now - time).into(),
        None => "<unknown>".into(),
    }
}

/// The time in `value`.
pub(super) fn time(value: Option<&Value>) -> Option<DateTime<Utc>> {
    let text = value?.as_str()?;
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_as_kubectl_writes_them() {
        for (seconds, expected) in [
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (12_000, "3h20m"),
            (30_000, "8h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (86400 * 9, "9d"),
            (86400 * 800, "2y70d"),
            (86400 * 3650, "10y"),
        ] {
            assert_eq!(human(TimeDelta::seconds(seconds)), expected, "{seconds}");
        }
    }
}
