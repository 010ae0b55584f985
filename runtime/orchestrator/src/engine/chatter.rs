//! How much may be said about an object: whoever makes an object's events, a guest whose probe answers differently each time for one, must not
//! fill the store with them. As in client-go's `EventCorrelator`, and with its figures.

use super::Note;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::{BTreeMap, BTreeSet};

/// Sentences about an object for one reason that are told each by itself, as long as no ten minutes pass without one.
const APART: usize = 10;
const SILENCE: TimeDelta = TimeDelta::minutes(10);
/// Events of one source about one object: so many at once, and one more every five minutes.
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;
/// Objects that are remembered.
const KEPT: usize = 4096;

/// What becomes of a sentence.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is told.
    Tell,
    /// It is told with others like it, as one event.
    Combine,
    /// It is not told.
    Drop,
}

/// What was said lately.
#[derive(Debug, Default)]
pub(super) struct Chatter {
    about: BTreeMap<(String, &'static str), About>,
}

/// By one source about one object.
#[derive(Debug)]
struct About {
    left: f64,
    at: DateTime<Utc>,
    reasons: BTreeMap<String, (DateTime<Utc>, BTreeSet<String>)>,
}

impl Chatter {
    pub(super) fn judge(&mut self, note: &Note, now: DateTime<Utc>) -> Verdict {
        let key = (note.about.uid.clone(), note.source);
        if self.about.len() >= KEPT && !self.about.contains_key(&key) {
            let oldest = self.about.iter().min_by_key(|(_, about)| about.at).map(|(key, _)| key.clone());
            oldest.map(|oldest| self.about.remove(&oldest));
        }
        let fresh = || About { left: BURST, at: now, reasons: BTreeMap::new() };
        let about = self.about.entry(key).or_insert_with(fresh);
        // A clock that was set back makes nothing.
        let passed = (now - about.at).num_milliseconds().max(0) as f64 / 1000.0;
        about.left = (about.left + passed / REFILL_SECONDS).min(BURST);
        about.at = now;
        if about.left < 1.0 {
            return Verdict::Drop;
        }
        about.left -= 1.0;
        about.reasons.retain(|_, (last, _)| now - *last < SILENCE);
        let (last, said) = about.reasons.entry(note.reason.clone()).or_insert_with(|| (now, BTreeSet::new()));
        *last = now;
        if said.len() < APART {
            said.insert(note.name());
        }
        if said.contains(&note.name()) { Verdict::Tell } else { Verdict::Combine }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::{Ref, kind};
    use crate::store::Stored;
    use serde_json::json;

    fn note(uid: &str, message: &str) -> Note {
        let object = json!({"metadata": {"name": "p", "namespace": "a", "uid": uid}});
        let about = Ref::to(kind("pods"), &Stored { object, version: 1 });
        Note::warning(about, "kubelet", "Unhealthy", message)
    }

    #[test]
    fn sentences_that_differ_are_combined_after_ten_and_dropped_after_twenty_five() {
        let (mut chatter, now) = (Chatter::default(), DateTime::UNIX_EPOCH);
        let mut verdicts = Vec::new();
        for number in 0..40 {
            verdicts.push(chatter.judge(&note("one", &number.to_string()), now));
        }
        let count = |verdict| verdicts.iter().filter(|found| **found == verdict).count();
        assert_eq!((count(Verdict::Tell), count(Verdict::Combine), count(Verdict::Drop)), (10, 15, 15));
        // Another object has its own measure, and time gives more.
        assert_eq!(chatter.judge(&note("two", "x"), now), Verdict::Tell);
        assert_eq!(chatter.judge(&note("one", "3"), now + TimeDelta::seconds(299)), Verdict::Drop);
        assert_eq!(chatter.judge(&note("one", "3"), now + TimeDelta::seconds(301)), Verdict::Tell);
        assert_eq!(chatter.judge(&note("one", "3"), now), Verdict::Drop);
    }

    #[test]
    fn so_many_objects_are_remembered_and_no_more() {
        let mut chatter = Chatter::default();
        for number in 0..KEPT as i64 + 10 {
            chatter.judge(&note(&number.to_string(), "x"), DateTime::UNIX_EPOCH + TimeDelta::seconds(number));
        }
        assert_eq!(chatter.about.len(), KEPT);
    }
}
