//! One line of the log, as Firecracker writes it: `2024-02-29T12:00:00.000000001 [vm:thread:INFO:src/x.rs:7] message`.

use crate::api::config::LogLevel;
use std::fmt;

pub(super) struct Line<'a> {
    pub seconds: u64,
    pub nanoseconds: u32,
    pub id: &'a str,
    pub thread: &'a str,
    pub level: Option<LogLevel>,
    pub origin: Option<(&'a str, u32)>,
    pub message: &'a str,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = date(self.seconds / 86400);
        let (hour, minute, second) = (self.seconds / 3600 % 24, self.seconds / 60 % 60, self.seconds % 60);
        let nanoseconds = self.nanoseconds;
        let id = if self.id.is_empty() { super::ANONYMOUS } else { self.id };
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanoseconds:09} [{id}:")?;
        write!(f, "{}", self.thread)?;
        if let Some(level) = self.level {
            write!(f, ":{}", name(level))?;
        }
        if let Some((file, line)) = self.origin {
            write!(f, ":{file}:{line}")?;
        }
        // A line stays one: what a client sends may have line ends of its own.
        writeln!(f, "] {}", self.message.replace('\n', "\\n").replace('\r', "\\r"))
    }
}

fn name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Off => "OFF",
        LogLevel::Error => "ERROR",
        LogLevel::Warning => "WARN",
        LogLevel::Info => "INFO",
        LogLevel::Debug => "DEBUG",
        LogLevel::Trace => "TRACE",
    }
}

/// Year, month and day of the day so many days after 1970-01-01, in the proleptic Gregorian calendar. UTC: the filters allow no look
/// at the host's time zone.
fn date(days: u64) -> (u64, u64, u64) {
    // Counted from 0000-03-01, so that the leap day is a year's last.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year_of_era, month + 3) } else { (year_of_era + 1, month - 9) };
    (era * 400 + year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (days, expected) in [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (19_782, (2024, 2, 29)),
            (20_088, (2024, 12, 31)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(date(days), expected);
        }
    }

    #[test]
    fn a_line_has_firecrackers_form_and_stays_one() {
        let mut line = Line {
            seconds: 19_782 * 86400 + 3661,
            nanoseconds: 42,
            id: "vm",
            thread: "api",
            level: None,
            origin: None,
            message: "a\nb",
        };
        assert_eq!(line.to_string(), "2024-02-29T01:01:01.000000042 [vm:api] a\\nb\n");
        (line.level, line.origin, line.id) = (Some(LogLevel::Warning), Some(("src/x.rs", 7)), "");
        assert_eq!(
            line.to_string(),
            "2024-02-29T01:01:01.000000042 [anonymous-instance:api:WARN:src/x.rs:7] a\\nb\n"
        );
    }
}
