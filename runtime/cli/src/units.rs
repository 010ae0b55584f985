//! Numbers as people write and read them.

/// `512`, `512b`, `64k`, `512m`, `2g`, `1t` (also `512MiB`, `2GB`): bytes in powers of 1024, as Docker takes them.
///
/// # Errors
/// A sentence that says what is possible.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a size; write it as in 512m or 2g");
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let shift = match unit {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(bad()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift).ok_or_else(bad);
    }
    let number: f64 = number.parse().map_err(|_| bad())?;
    let bytes = number * f64::from(2u32).powi(shift);
    // Up to 2^53 an f64 holds each whole number.
    if (0.0..9e15).contains(&bytes) { Ok(bytes as u64) } else { Err(bad()) }
}

/// `0.5`, `2`: thousandths of a processor.
///
/// # Errors
/// A sentence that says what is possible.
pub fn parse_cpus(text: &str) -> Result<u32, String> {
    let bad = || format!("{text:?} is not a number of processors; write it as in 0.5 or 2");
    let number: f64 = text.trim().parse().map_err(|_| bad())?;
    let milli = (number * 1000.0).round();
    // The daemon knows the real bounds; this only keeps the number exact.
    if (1.0..=1e9).contains(&milli) { Ok(milli as u32) } else { Err(bad()) }
}

/// Bytes with three digits and a decimal unit, as `docker images` prints them.
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 999.5 {
            return match value {
                v if unit == "B" || v >= 100.0 => format!("{v:.0}{unit}"),
                v if v >= 10.0 => format!("{v:.1}{unit}"),
                v => format!("{v:.2}{unit}"),
            };
        }
        value /= 1000.0;
    }
    format!("{value:.2}TB")
}

/// A length of time in its largest unit.
pub fn ago(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        86_400..1_209_600 => (seconds / 86_400, "day"),
        1_209_600..63_072_000 => (seconds / 604_800, "week"),
        _ => (seconds / 31_536_000, "year"),
    };
    if count == 1 { format!("1 {unit}") } else { format!("{count} {unit}s") }
}

/// Columns under their headings, each as wide as its widest cell.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([headings[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect::<Vec<_>>();
        padded.join("   ").trim_end().to_owned() + "\n"
    };
    let mut out = line(&mut headings.iter().copied());
    for row in rows {
        out += &line(&mut row.iter().map(String::as_str));
    }
    out
}

/// Text from a guest or an image that is safe in a terminal's table: nothing that steers one, at most `max` characters.
pub fn cell(text: &str, max: usize) -> String {
    let clean: String = text.chars().map(|c| if crate::output::steers(c) { ' ' } else { c }).collect();
    if clean.chars().count() <= max {
        return clean;
    }
    clean.chars().take(max.saturating_sub(1)).chain(['…']).collect()
}

/// Reads the name of a network.
///
/// # Errors
/// When there is none of that name.
pub fn parse_network(text: &str) -> Result<vial_api::NetworkMode, String> {
    match text {
        // The latter two as Docker calls its own.
        "routed" | "default" | "bridge" => Ok(vial_api::NetworkMode::Routed),
        "none" => Ok(vial_api::NetworkMode::None),
        "host" => {
            Err("a microVM cannot share the host's network; publish the ports that are needed with -p".into())
        }
        _ => Err("there are the networks routed and none".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        let good = [
            ("512", 512),
            ("1k", 1024),
            ("64M", 64 << 20),
            ("2g", 2 << 30),
            ("1.5g", 3 << 29),
            ("2GiB", 2 << 30),
        ];
        for (text, value) in good {
            assert_eq!(parse_bytes(text), Ok(value), "{text}");
        }
        for bad in ["", "m", "-1", "1x", "99999999999t", "1e3", "nan", "inf"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn processors_are_read() {
        assert_eq!(parse_cpus("1.5"), Ok(1500));
        assert_eq!(parse_cpus("0.001"), Ok(1));
        for bad in ["", "0", "-1", "x", "inf", "NaN", "1e20"] {
            assert!(parse_cpus(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_are_written() {
        assert_eq!(
            [bytes(0), bytes(999), bytes(1000), bytes(4_261_000), bytes(123_456_789)],
            ["0B", "999B", "1.00kB", "4.26MB", "123MB"]
        );
        assert_eq!(
            [ago(1000), ago(59_999), ago(3_600_000), ago(86_400_000 * 3)],
            ["1 second", "59 seconds", "1 hour", "3 days"]
        );
    }

    #[test]
    fn tables_line_up_and_cells_are_harmless() {
        let text = table(&["ID", "NAME"], &[vec!["1".into(), "x".into()], vec!["234".into(), "y".into()]]);
        assert_eq!(text, "ID    NAME\n1     x\n234   y\n");
        assert_eq!(cell("a\x1b[31m\nb", 20), "a [31m b");
        assert_eq!(cell("abcdef", 4), "abc…");
    }
}
