//! A container's log, as a channel.

use crate::error::ApiError;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::mpsc;
use vial_orchestrator::http::streams::{LogOptions, PIECES};
use vial_sandbox::log::{Item, OutputLog, Position, Selector, Stream, Wanted};

/// Opens it where the options say. Both streams come as one, in the order in which they came.
///
/// # Errors
/// It can't be read.
pub async fn open(log: Arc<OutputLog>, options: LogOptions) -> Result<mpsc::Receiver<Bytes>, ApiError> {
    let LogOptions { follow, since, tail, timestamps } = options;
    // What is older than 1970 is everything.
    let since_ms = since.map(|since| u64::try_from(since.timestamp_millis()).unwrap_or(0));
    let mut wanted = Wanted { since_ms, until_ms: None, skip: 0, timestamps };
    if let Some(tail) = tail {
        let mut follower = log.follow(Position::default(), false);
        let mut counting = Selector::new(Wanted { timestamps: false, ..wanted });
        // The log is bounded, and so is this look at it; not on a thread that others wait for.
        let lines = tokio::task::spawn_blocking(move || {
            while let Some(item) = follower.now()? {
                counting.pick(item);
            }
            Ok::<_, ApiError>(counting.lines())
        });
        wanted.skip = lines.await??.saturating_sub(tail);
    }
    let (sender, receiver) = mpsc::channel(PIECES);
    let (mut follower, mut selector) = (log.follow(Position::default(), false), Selector::new(wanted));
    tokio::spawn(async move {
        loop {
            let next = async { if follow { follower.next().await } else { follower.now() } };
            let item = tokio::select! {
                item = next => item,
                () = sender.closed() => return,
            };
            let item = match item {
                Ok(Some(item)) => item,
                Ok(None) => return,
                Err(error) => return tracing::warn!(%error, "a log can't be read to its end"),
            };
            let bytes = match selector.pick(item) {
                None => continue,
                Some(Item::Data { bytes, .. }) => bytes.into(),
                Some(gap) => words(&gap),
            };
            if sender.send(bytes).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// What is said where something is missing; Kubernetes has no sign for that.
pub fn words(gap: &Item) -> Bytes {
    match gap {
        Item::Gap { stream, bytes } => {
            let stream = if *stream == Stream::Stderr { "error" } else { "output" };
            format!("[vial: {bytes} bytes of standard {stream} are missing here]\n").into()
        }
        Item::Data { .. } => Bytes::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vial_orchestrator::chrono::DateTime;
    use vial_sandbox::log::Limits;

    async fn all(mut receiver: mpsc::Receiver<Bytes>) -> String {
        let mut text = String::new();
        while let Some(bytes) = receiver.recv().await {
            text += std::str::from_utf8(&bytes).unwrap();
        }
        text
    }

    #[tokio::test]
    async fn a_part_is_shown_and_followed_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let log = OutputLog::open(dir.path(), Limits::default(), None).unwrap();
        let at = log.append(Stream::Stdout, 0, b"one\ntwo\n".to_vec()).await;
        let now = |options| open(log.clone(), options);
        assert_eq!(all(now(LogOptions::default()).await.unwrap()).await, "one\ntwo\n");
        let tail = LogOptions { tail: Some(1), ..LogOptions::default() };
        assert_eq!(all(now(tail.clone()).await.unwrap()).await, "two\n");
        let late = LogOptions { since: DateTime::from_timestamp(99_999_999_999, 0), ..LogOptions::default() };
        assert_eq!(all(now(late).await.unwrap()).await, "");
        let following = now(LogOptions { follow: true, ..tail }).await.unwrap();
        log.append(Stream::Stdout, at, b"three\n".to_vec()).await;
        log.complete();
        assert_eq!(all(following).await, "two\nthree\n");
    }
}
