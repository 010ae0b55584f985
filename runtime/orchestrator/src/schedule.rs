//! Schedules of CronJobs: five fields or a macro, in a time zone.

use chrono::{DateTime, TimeZone as _, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

/// Longest schedule that is looked at, in bytes.
const MAX_LEN: usize = 1024;
/// Missed times that are counted: beyond that it is only said that there are more.
const MAX_MISSED: usize = 100;
/// Macros, and what they mean (crontab(5)).
const MACROS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];
/// Words that stand for numbers.
const WORDS: [&str; 19] = [
    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC", "SUN", "MON", "TUE",
    "WED", "THU", "FRI", "SAT",
];

/// Why a text is no schedule.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSchedule {
    /// Of a form that there is not.
    #[error(
        "{0}: give five fields (minute, hour, day of month, month, day of week) or one of @yearly, @monthly, @weekly, @daily, @hourly"
    )]
    Form(String),
    /// A time zone that there is not.
    #[error("unknown time zone {0:?}: give a name of the IANA database such as Europe/Berlin or Etc/UTC")]
    Zone(String),
}

/// When something is due.
#[derive(Debug, Clone)]
pub struct Schedule {
    cron: Cron,
    zone: Tz,
}

impl Schedule {
    /// Of a CronJob's `schedule` and `timeZone` (empty: UTC; where the daemon runs must not matter).
    ///
    /// # Errors
    /// Either is none.
    pub fn parse(text: &str, zone: &str) -> Result<Self, BadSchedule> {
        let zone = if zone.is_empty() { "UTC" } else { zone };
        let zone: Tz = zone.parse().map_err(|_| BadSchedule::Zone(zone.chars().take(64).collect()))?;
        let text = text.trim();
        let expanded = MACROS.iter().find(|(name, _)| *name == text).map_or(text, |(_, fields)| fields);
        check(expanded).map_err(BadSchedule::Form)?;
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .sloppy_ranges(true)
            .build();
        // Kubernetes' parser takes `?` everywhere.
        let cron = parser
            .parse(&expanded.replace('?', "*"))
            .map_err(|error| BadSchedule::Form(error.to_string()))?;
        Ok(Self { cron, zone })
    }

    /// The first time after `after`; none: never again.
    pub fn next(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let after = self.zone.from_utc_datetime(&after.naive_utc());
        self.cron.find_next_occurrence(&after, false).ok().map(|time| time.to_utc())
    }

    /// The last time that is after `after` and not after `upto`.
    pub fn latest(&self, after: DateTime<Utc>, upto: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // Most looks find that nothing is due; the other search may go far back.
        self.next(after).filter(|next| *next <= upto)?;
        let upto = self.zone.from_utc_datetime(&upto.naive_utc());
        let found = self.cron.find_previous_occurrence(&upto, true).ok()?.to_utc();
        (found > after).then_some(found)
    }

    /// Whether more than a hundred times lie between.
    pub fn has_missed_many(&self, after: DateTime<Utc>, upto: DateTime<Utc>) -> bool {
        let times = std::iter::successors(self.next(after), |time| self.next(*time));
        times.take_while(|time| *time <= upto).take(MAX_MISSED + 1).count() > MAX_MISSED
    }
}

/// Only what Kubernetes' own parser knows: the library knows more (`L`, `W`, `#`), which would mean nothing elsewhere.
fn check(text: &str) -> Result<(), String> {
    if text.len() > MAX_LEN {
        return Err(format!("longer than {MAX_LEN} bytes"));
    }
    if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
        return Err("a time zone in the schedule; it belongs into spec.timeZone".into());
    }
    if text.starts_with('@') {
        return Err(format!("{text:?} is no macro that is known here"));
    }
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    if fields.len() != 5 {
        return Err(format!("expected exactly 5 fields, found {}: {text:?}", fields.len()));
    }
    for field in fields {
        let is_known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '*' | '?' | '/' | ',' | '-');
        if !field.chars().all(is_known) || field.starts_with('/') {
            return Err(format!("{field:?} is no field of a schedule"));
        }
        let mut words = field.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty());
        if let Some(word) = words.find(|word| !WORDS.contains(&word.to_ascii_uppercase().as_str())) {
            return Err(format!("{word:?} is neither a month nor a day of the week"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn next(schedule: &str, zone: &str, after: &str) -> String {
        let found = Schedule::parse(schedule, zone).unwrap().next(at(after));
        found.map_or("never".into(), |time| time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
    }

    #[test]
    fn fields_macros_names_steps_and_zones_mean_what_they_do_in_kubernetes() {
        for (schedule, zone, expected) in [
            ("*/15 * * * *", "", "2026-03-01T12:15:00Z"),
            ("5/15 * * * *", "", "2026-03-01T12:05:00Z"),
            ("0 0 * * *", "Europe/Berlin", "2026-03-01T23:00:00Z"),
            ("30 2 * * *", "Asia/Kolkata", "2026-03-01T21:00:00Z"),
            ("@hourly", "", "2026-03-01T13:00:00Z"),
            ("@midnight", "", "2026-03-02T00:00:00Z"),
            ("@weekly", "", "2026-03-08T00:00:00Z"),
            ("@yearly", "", "2027-01-01T00:00:00Z"),
            ("0 9 ? * mon-fri", "", "2026-03-02T09:00:00Z"),
            ("0 0 13 * 5", "", "2026-03-06T00:00:00Z"),
            ("0 0 1 FEB *", "", "2027-02-01T00:00:00Z"),
            ("0 0 29 2 *", "", "2028-02-29T00:00:00Z"),
            ("0 0 31 2 *", "", "never"),
        ] {
            assert_eq!(next(schedule, zone, "2026-03-01T12:00:00Z"), expected, "{schedule} {zone}");
        }
    }

    #[test]
    fn a_day_without_the_hour_and_a_day_with_two_of_it_each_have_one_run() {
        // Berlin's clocks went from 02:00 to 03:00 on 29 March 2026, and from 03:00 to 02:00 on 25 October.
        let daily = Schedule::parse("30 2 * * *", "Europe/Berlin").unwrap();
        for (from, upto, runs) in [
            ("2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z", 1),
            ("2026-10-24T12:00:00Z", "2026-10-25T12:00:00Z", 1),
        ] {
            let times = std::iter::successors(daily.next(at(from)), |time| daily.next(*time));
            assert_eq!(times.take_while(|time| *time < at(upto)).count(), runs, "{from}");
        }
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_the_reason() {
        for bad in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* * 0 * *",
            "* * L * *",
            "* * * * 5#2",
            "@every 5m",
            "@reboot",
            "TZ=UTC * * * * *",
            "*/0 * * * *",
            "a * * * *",
            "/5 * * * *",
            "5-1 * * * *",
            "* * 15W * *",
            "ä * * * *",
            &"*,".repeat(1000),
        ] {
            assert!(matches!(Schedule::parse(bad, ""), Err(BadSchedule::Form(_))), "{bad}");
        }
        assert!(matches!(Schedule::parse("* * * * *", "Mars/Base"), Err(BadSchedule::Zone(_))));
    }

    #[test]
    fn the_latest_missed_time_is_found_and_many_are_only_known_to_be_many() {
        let hourly = Schedule::parse("@hourly", "").unwrap();
        let (from, upto) = (at("2026-03-01T12:00:00Z"), at("2026-03-01T15:30:00Z"));
        assert_eq!(hourly.latest(from, upto), Some(at("2026-03-01T15:00:00Z")));
        assert_eq!(hourly.latest(from, at("2026-03-01T12:59:59Z")), None);
        assert_eq!(hourly.latest(from, at("2026-03-01T13:00:00Z")), Some(at("2026-03-01T13:00:00Z")));
        assert!(
            !hourly.has_missed_many(from, upto) && hourly.has_missed_many(from, at("2026-04-01T00:00:00Z"))
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in r"[0-9*/,\-?@A-Za-z# ]{0,24}", zone in "[A-Za-z/_+0-9-]{0,20}") {
            if let Ok(schedule) = Schedule::parse(&text, "") {
                let from = at("2026-03-01T12:00:00Z");
                prop_assert!(schedule.next(from).is_none_or(|next| next > from));
            }
            let _ = Schedule::parse("* * * * *", &zone);
        }
    }
}
