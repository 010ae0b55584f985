//! Times as people write them: `10m` ago, a date, a point in time, seconds since the epoch.

/// Milliseconds since the epoch that a text means at `now_ms`.
///
/// # Errors
/// A sentence that says what is possible.
pub fn parse(text: &str, now_ms: u64) -> Result<u64, String> {
    let ago = duration_ms(text).map(|ago| now_ms.saturating_sub(ago));
    ago.or_else(|| seconds_ms(text)).or_else(|| point_ms(text)).ok_or_else(|| {
        format!(
            "{text:?} is no time; write it as in 10m, 1h30m, 2026-01-31, 2026-01-31T12:00:00Z or 1767225600"
        )
    })
}

/// `1h30m`, `90s`, `1.5h`, `2d`.
fn duration_ms(text: &str) -> Option<u64> {
    let (mut rest, mut total) = (text, 0.0);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let number: f64 = rest[..end].parse().ok()?;
        let unit_end = rest[end..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| end + at);
        total += number
            * match &rest[end..unit_end] {
                "ms" => 1.0,
                "s" => 1e3,
                "m" => 60e3,
                "h" => 3600e3,
                "d" => 86_400e3,
                _ => return None,
            };
        rest = &rest[unit_end..];
    }
    // Below 2^53 every millisecond is exact.
    (!text.is_empty() && total < 9e15).then_some(total as u64)
}

/// `1767225600`, `1767225600.25`.
fn seconds_ms(text: &str) -> Option<u64> {
    let plain = text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let seconds: f64 = text.parse().ok().filter(|_| plain)?;
    (seconds < 9e12).then_some((seconds * 1000.0) as u64)
}

/// `2026-01-31`, with `T12:00`, `T12:00:00`, `T12:00:00.5`, and `Z` or an offset; without one it is UTC.
fn point_ms(text: &str) -> Option<u64> {
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00"));
    let mut parts = date.split('-');
    let (year, month, day) = (digits(parts.next()?)?, digits(parts.next()?)?, digits(parts.next()?)?);
    if parts.next().is_some()
        || !(1970..10_000).contains(&year)
        || !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
    {
        return None;
    }
    let (time, offset_m) = match time.find(['Z', '+', '-']) {
        None => (time, 0),
        Some(at) if &time[at..] == "Z" => (&time[..at], 0),
        Some(at) => {
            let (hours, minutes) = time[at + 1..].split_once(':')?;
            let minutes = i64::try_from(digits(hours)? * 60 + digits(minutes)?).ok()?;
            (&time[..at], if time.as_bytes()[at] == b'-' { -minutes } else { minutes })
        }
    };
    let mut parts = time.split(':');
    let (hour, minute) = (digits(parts.next()?)?, digits(parts.next()?)?);
    let second: f64 =
        parts.next().map_or(Some(0.0), |text| text.parse().ok().filter(|s| (0.0..61.0).contains(s)))?;
    if parts.next().is_some() || hour > 23 || minute > 59 {
        return None;
    }
    let seconds =
        i64::try_from(days(year, month, day) * 86_400 + hour * 3600 + minute * 60).ok()? - offset_m * 60;
    u64::try_from(seconds).ok().map(|seconds| seconds * 1000 + (second * 1000.0) as u64)
}

fn digits(text: &str) -> Option<u64> {
    (!text.is_empty() && text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse().ok())?
}

/// Days from the epoch to a date (Gregorian; from 1970 on).
fn days(year: u64, month: u64, day: u64) -> u64 {
    // Years begin in March here, so that the leap day comes last.
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn times_are_read_as_docker_reads_them() {
        let now = 1_800_000_000_000;
        let rows = [
            ("10m", now - 600_000),
            ("1h30m", now - 5_400_000),
            ("1.5s", now - 1500),
            ("2d", now - 172_800_000),
            ("1767225600", 1_767_225_600_000),
            ("1767225600.25", 1_767_225_600_250),
            ("2026-01-01", 1_767_225_600_000),
            ("2026-01-01T00:00:00Z", 1_767_225_600_000),
            ("2026-01-01T02:00:00.5+02:00", 1_767_225_600_500),
            ("2000-02-29T23:59", 951_868_740_000),
            ("9999d", now - 9999 * 86_400_000),
        ];
        for (text, ms) in rows {
            assert_eq!(parse(text, now), Ok(ms), "{text}");
        }
        for bad in
            ["", "x", "10x", "2026-13-01", "2026-1", "-5m", "2026-01-01T25:00", "1h30", "9e9", "..s", "é"]
        {
            assert!(parse(bad, now).is_err(), "{bad}");
        }
    }
}
