//! The indexes of an Indexed job: which are done, which have a pod, which are next.

use crate::object;
use serde_json::Value;
use std::collections::BTreeSet;

/// Label and annotation of a pod (batch's `JobCompletionIndexAnnotation`).
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// Of one job.
#[derive(Debug, Default)]
pub(super) struct Indexes {
    /// There are so many: 0 to one less.
    total: u32,
    done: BTreeSet<u32>,
    taken: BTreeSet<u32>,
}

impl Indexes {
    /// What a job's status says; nothing, if it has no indexes.
    pub(super) fn of(job: &Value) -> Option<Self> {
        if object::text(job, &["spec", "completionMode"]) != "Indexed" {
            return None;
        }
        let total = u32::try_from(object::number(job, &["spec", "completions"])?).ok()?;
        let done = parse(object::text(job, &["status", "completedIndexes"]), total);
        Some(Self { total, done, taken: BTreeSet::new() })
    }

    /// The index of a pod, if it has one of these.
    pub(super) fn of_pod(&self, pod: &Value) -> Option<u32> {
        let index = object::text(pod, &["metadata", "annotations", INDEX]).parse().ok()?;
        (index < self.total).then_some(index)
    }

    /// A pod of this index has succeeded.
    pub(super) fn complete(&mut self, index: u32) {
        self.done.insert(index);
    }

    /// A pod of this index is there. False: there was one already.
    pub(super) fn take(&mut self, index: u32) -> bool {
        self.taken.insert(index)
    }

    /// Whether it is done.
    pub(super) fn is_done(&self, index: u32) -> bool {
        self.done.contains(&index)
    }

    /// How many are done.
    pub(super) fn done(&self) -> usize {
        self.done.len()
    }

    /// Those that need a pod, the smallest first.
    pub(super) fn pending(&self) -> impl Iterator<Item = u32> {
        (0..self.total).filter(|index| !self.done.contains(index) && !self.taken.contains(index))
    }

    /// As a status says it: `0-2,5`.
    pub(super) fn text(&self) -> String {
        let mut spans: Vec<(u32, u32)> = Vec::new();
        for index in &self.done {
            match spans.last_mut() {
                Some((_, last)) if *last + 1 == *index => *last = *index,
                _ => spans.push((*index, *index)),
            }
        }
        let one = |(first, last): &(u32, u32)| match last - first {
            0 => first.to_string(),
            1 => format!("{first},{last}"),
            _ => format!("{first}-{last}"),
        };
        spans.iter().map(one).collect::<Vec<_>>().join(",")
    }
}

/// What is no span is passed over: anybody may write a status, and the pods themselves are counted again.
fn parse(text: &str, total: u32) -> BTreeSet<u32> {
    let spans = text.split(',').filter_map(|span| {
        let (first, last) = span.split_once('-').unwrap_or((span, span));
        Some((first.parse::<u32>().ok()?, last.parse::<u32>().ok()?.min(total.checked_sub(1)?)))
    });
    spans.flat_map(|(first, last)| first..=last).take(total as usize).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn of(total: u32, done: &str) -> Indexes {
        Indexes::of(&json!({"spec": {"completionMode": "Indexed", "completions": total}, "status": {"completedIndexes": done}})).unwrap()
    }

    #[test]
    fn spans_are_read_and_written_as_kubernetes_does() {
        let mut indexes = of(10, "0-2,5,7");
        assert_eq!(indexes.text(), "0-2,5,7");
        indexes.complete(8);
        assert!(indexes.take(3) && !indexes.take(3));
        assert_eq!((indexes.text().as_str(), indexes.done()), ("0-2,5,7,8", 6));
        assert_eq!(indexes.pending().collect::<Vec<_>>(), [4, 6, 9]);
        for rubbish in ["", ",", "-", "x", "9-1", "4294967295", "10-20", "1-2-3"] {
            assert_eq!(of(10, rubbish).done(), 0, "{rubbish}");
        }
        assert_eq!(of(3, "0-4000000000,0-4000000000").done(), 3);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(done in proptest::collection::btree_set(0..200u32, 0..80), rubbish in "[0-9,x-]{0,40}") {
            let text = Indexes { total: 200, done: done.clone(), taken: BTreeSet::new() }.text();
            prop_assert_eq!(parse(&text, 200), done);
            prop_assert!(parse(&rubbish, 200).len() <= 200);
        }
    }
}
