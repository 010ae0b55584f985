//! Figures under two names each, and the two forms in which they go out: pure functions.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// One figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// Counts up from the start of the process.
    Count(u64),
    /// What it is now.
    Gauge(u64),
}

/// A group's name, and the device that it is about if it is about one.
type Group = (&'static str, String);

/// All of them at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures(BTreeMap<Group, BTreeMap<String, Figure>>);

impl Figures {
    /// Adds figure `name` to `group`.
    pub fn add(&mut self, group: &'static str, name: impl Into<String>, figure: Figure) {
        self.of(group, "", name, figure);
    }

    /// Adds figure `name` of device `id` to `group`.
    pub fn of(&mut self, group: &'static str, id: &str, name: impl Into<String>, figure: Figure) {
        self.0.entry((group, id.to_owned())).or_default().insert(name.into(), figure);
    }

    /// Adds counts that have names of their own to `group`.
    pub fn counts(&mut self, group: &'static str, counts: impl IntoIterator<Item = (&'static str, u64)>) {
        counts.into_iter().for_each(|(name, count)| self.add(group, name, Figure::Count(count)));
    }

    /// Adds device `id`'s counts, which have names of their own, to `group`.
    pub fn counts_of(
        &mut self,
        group: &'static str,
        id: &str,
        counts: impl IntoIterator<Item = (&'static str, u64)>,
    ) {
        counts.into_iter().for_each(|(name, count)| self.of(group, id, name, Figure::Count(count)));
    }

    /// Takes out what there is of a device.
    pub fn forget(&mut self, group: &'static str, id: &str) {
        self.0.remove(&(group, id.to_owned()));
    }

    fn count(&self, group: &Group, name: &str) -> u64 {
        match self.0.get(group).and_then(|figures| figures.get(name)) {
            Some(Figure::Count(count)) => *count,
            _ => 0,
        }
    }

    /// Firecracker's document: what was counted since `last`, and what is measured now; devices of one kind one by one and together.
    pub fn since(&self, last: &Self, utc_ms: u64) -> Value {
        let mut groups: BTreeMap<String, BTreeMap<&str, u64>> = BTreeMap::new();
        for (group, figures) in &self.0 {
            let (kind, id) = group;
            let own = if id.is_empty() { (*kind).to_owned() } else { format!("{kind}_{id}") };
            let all = (!id.is_empty()).then(|| (*kind).to_owned());
            for (name, figure) in figures {
                let value = match figure {
                    Figure::Count(count) => count.saturating_sub(last.count(group, name)),
                    Figure::Gauge(value) => *value,
                };
                for group in all.iter().chain([&own]) {
                    let sum = groups.entry(group.clone()).or_default().entry(name).or_default();
                    *sum = sum.saturating_add(value);
                }
            }
        }
        let mut document: Map<_, _> = groups.into_iter().map(|(name, group)| (name, json!(group))).collect();
        document.insert("utc_timestamp_ms".to_owned(), json!(utc_ms));
        document.into()
    }

    /// Prometheus' text exposition format 0.0.4: `vial_<group>_<name>`, counts with `_total`, devices as a label.
    pub fn prometheus(&self) -> String {
        // All samples of one name have to stand together.
        let mut metrics: BTreeMap<(String, &str), Vec<(&str, u64)>> = BTreeMap::new();
        for ((group, id), figures) in &self.0 {
            for (name, figure) in figures {
                let (suffix, kind, value) = match figure {
                    Figure::Count(count) => ("_total", "counter", *count),
                    Figure::Gauge(value) => ("", "gauge", *value),
                };
                metrics.entry((format!("vial_{group}_{name}{suffix}"), kind)).or_default().push((id, value));
            }
        }
        let mut text = String::new();
        for ((name, kind), samples) in metrics {
            // Writing to a string does not fail.
            let _ = writeln!(text, "# TYPE {name} {kind}");
            for (id, value) in samples {
                let _ = match id {
                    "" => writeln!(text, "{name} {value}"),
                    id => writeln!(text, "{name}{{device=\"{}\"}} {value}", escape(id)),
                };
            }
        }
        text
    }
}

fn escape(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(count: u64) -> Figures {
        let mut figures = Figures::default();
        figures.add("vcpu", "exit_io_in", Figure::Count(count));
        figures.add("api_server", "process_startup_time_us", Figure::Gauge(7));
        figures.of("block", "a\"b", "throttled", Figure::Count(count));
        figures.of("block", "c", "throttled", Figure::Count(1));
        figures
    }

    #[test]
    fn another_device_of_a_name_begins_anew() {
        let mut last = figures(5);
        last.forget("block", "a\"b");
        assert_eq!(figures(3).since(&last, 1)["block_a\"b"]["throttled"], 3);
        assert_eq!(figures(3).since(&last, 1)["block_c"]["throttled"], 0);
    }

    #[test]
    fn counts_are_since_the_last_line_and_gauges_are_not() {
        let first = figures(5).since(&Figures::default(), 1);
        assert_eq!(first["vcpu"]["exit_io_in"], 5);
        let second = figures(12).since(&figures(5), 2);
        assert_eq!(
            second,
            json!({
                "utc_timestamp_ms": 2,
                "vcpu": {"exit_io_in": 7},
                "api_server": {"process_startup_time_us": 7},
                "block": {"throttled": 7},
                "block_a\"b": {"throttled": 7},
                "block_c": {"throttled": 0},
            })
        );
    }

    #[test]
    fn prometheus_gets_totals_and_labels() {
        assert_eq!(
            figures(5).prometheus(),
            "# TYPE vial_api_server_process_startup_time_us gauge\nvial_api_server_process_startup_time_us 7\n\
             # TYPE vial_block_throttled_total counter\nvial_block_throttled_total{device=\"a\\\"b\"} 5\n\
             vial_block_throttled_total{device=\"c\"} 1\n\
             # TYPE vial_vcpu_exit_io_in_total counter\nvial_vcpu_exit_io_in_total 5\n"
        );
    }
}
