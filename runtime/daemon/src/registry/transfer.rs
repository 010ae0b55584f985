//! A pull or push that is going on: shared by all clients that want the same, told to each as it goes, given up when nobody wants it any more.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use vial_api::{ErrorBody, ErrorKind, LayerState, TransferEvent};

/// How often a client hears of progress, at most.
const TICK: Duration = Duration::from_millis(100);

/// One layer, as far as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The first digits of its digest.
    pub id: String,
    /// What is being done with it.
    pub state: LayerState,
    /// Bytes that went over the network.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// All that clients are told of a transfer.
#[derive(Debug, Clone, Default)]
struct Told {
    /// Name and digest.
    begun: Option<(String, String)>,
    layers: Vec<Layer>,
    /// `Finished` or `Failed`.
    end: Option<TransferEvent>,
}

/// A transfer, from the side of whoever does it.
#[derive(Debug)]
pub struct Transfer {
    told: watch::Sender<Told>,
    /// How many clients want it; it is never wanted again after it was not.
    wanted: watch::Sender<usize>,
}

impl Transfer {
    /// The image is known.
    pub fn begin(&self, name: &str, digest: &str, layers: Vec<Layer>) {
        self.told.send_modify(|told| {
            told.begun = Some((name.to_owned(), digest.to_owned()));
            told.layers = layers;
        });
    }

    /// A layer moves on.
    pub fn layer(&self, index: usize, change: impl FnOnce(&mut Layer)) {
        self.told.send_modify(|told| {
            if let Some(layer) = told.layers.get_mut(index) {
                change(layer);
            }
        });
    }

    /// Waits until nobody wants it any more.
    pub async fn unwanted(&self) {
        // The sender is ours, so the channel is open.
        let _ = self.wanted.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Adds a client, unless it was given up or is over.
    fn join(&self) -> bool {
        self.told.borrow().end.is_none()
            && self.wanted.send_if_modified(|count| {
                let open = *count > 0;
                *count += usize::from(open);
                open
            })
    }
}

/// The transfers that are going on.
#[derive(Debug, Default)]
pub struct Transfers(Mutex<HashMap<String, Arc<Transfer>>>);

impl Transfers {
    fn map(&self) -> MutexGuard<'_, HashMap<String, Arc<Transfer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer for a client who wants what `key` stands for; `work` is begun if nobody does that already.
    pub fn follow<W>(self: &Arc<Self>, key: String, work: impl FnOnce(Arc<Transfer>) -> W) -> Response
    where
        W: Future<Output = Result<TransferEvent, ErrorBody>> + Send + 'static,
    {
        answer(self.share(key, work))
    }

    /// The same for who only wants to know how it ends. Dropped, it is wanted by one less.
    pub async fn end_of<W>(
        self: &Arc<Self>,
        key: String,
        work: impl FnOnce(Arc<Transfer>) -> W,
    ) -> TransferEvent
    where
        W: Future<Output = Result<TransferEvent, ErrorBody>> + Send + 'static,
    {
        let share = Share(self.share(key, work));
        let mut told = share.0.told.subscribe();
        // The sender is in the share, so the channel is open.
        let ended = told.wait_for(|told| told.end.is_some()).await.ok().and_then(|told| told.end.clone());
        let words = || ErrorBody::new(ErrorKind::Internal, "a transfer ended without a word");
        ended.unwrap_or_else(|| TransferEvent::Failed(words()))
    }

    /// The transfer that `key` stands for, with one more who wants it.
    fn share<W>(self: &Arc<Self>, key: String, work: impl FnOnce(Arc<Transfer>) -> W) -> Arc<Transfer>
    where
        W: Future<Output = Result<TransferEvent, ErrorBody>> + Send + 'static,
    {
        let mut map = self.map();
        match map.get(&key) {
            Some(transfer) if transfer.join() => transfer.clone(),
            _ => {
                let transfer = Arc::new(Transfer {
                    told: watch::Sender::new(Told::default()),
                    wanted: watch::Sender::new(1),
                });
                map.insert(key.clone(), transfer.clone());
                let (all, doing, work) = (self.clone(), transfer.clone(), work(transfer.clone()));
                tokio::spawn(async move {
                    // A task of its own, so that even one that panics is told as over.
                    let end = match tokio::spawn(work).await {
                        Ok(Ok(end)) => end,
                        Ok(Err(error)) => TransferEvent::Failed(error),
                        Err(error) => {
                            let words = format!("the daemon failed inside: {error}");
                            TransferEvent::Failed(ErrorBody::new(ErrorKind::Internal, words))
                        }
                    };
                    doing.told.send_modify(|told| told.end = Some(end));
                    let mut map = all.map();
                    if map.get(&key).is_some_and(|current| Arc::ptr_eq(current, &doing)) {
                        map.remove(&key);
                    }
                });
                transfer
            }
        }
    }

    /// Gives all up and waits until they have cleaned up after themselves.
    pub async fn end(&self) {
        let all: Vec<_> = self.map().values().cloned().collect();
        for transfer in all {
            transfer.wanted.send_replace(0);
            let _ = transfer.told.subscribe().wait_for(|told| told.end.is_some()).await;
        }
    }
}

/// A client's share in a transfer; dropped with its connection.
struct Share(Arc<Transfer>);

impl Drop for Share {
    fn drop(&mut self) {
        self.0.wanted.send_modify(|count| *count = count.saturating_sub(1));
    }
}

fn answer(transfer: Arc<Transfer>) -> Response {
    let (seen, end) = (transfer.told.subscribe(), transfer.told.subscribe());
    let client = Client {
        share: Share(transfer),
        seen,
        end,
        begun: false,
        layers: Vec::new(),
        heard: None,
        over: false,
    };
    let lines = futures_util::stream::unfold(client, |mut client| async move {
        let lines = client.next().await?;
        Some((Ok::<_, Infallible>(lines), client))
    });
    Response::new(Body::from_stream(lines))
}

/// One client, and what it has heard.
struct Client {
    #[expect(dead_code, reason = "its drop says that this client wants the transfer no longer")]
    share: Share,
    seen: watch::Receiver<Told>,
    /// The same, for the end alone: waiting for something takes all that comes meanwhile for seen.
    end: watch::Receiver<Told>,
    begun: bool,
    layers: Vec<Layer>,
    heard: Option<Instant>,
    over: bool,
}

impl Client {
    /// The lines for all that changed since the last ones; slow clients miss what is old news by then.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.over {
            if let Some(heard) = self.heard {
                // The end is told at once.
                let end = self.end.wait_for(|told| told.end.is_some());
                let _ = tokio::time::timeout_at(heard + TICK, end).await;
                self.seen.changed().await.ok()?;
            }
            self.heard = Some(Instant::now());
            let told = self.seen.borrow_and_update().clone();
            let lines = self.lines(&told);
            if !lines.is_empty() {
                return Some(lines.into());
            }
        }
        None
    }

    fn lines(&mut self, told: &Told) -> Vec<u8> {
        let mut events = Vec::new();
        if let (false, Some((name, digest))) = (self.begun, &told.begun) {
            self.begun = true;
            let (name, digest) = (name.clone(), digest.clone());
            events.push(TransferEvent::Begun { name, digest, layers: told.layers.len() });
        }
        for (index, layer) in told.layers.iter().enumerate() {
            if self.layers.get(index) != Some(layer) {
                let Layer { id, state, done, total } = layer.clone();
                events.push(TransferEvent::Layer { id, state, done, total });
            }
        }
        self.layers.clone_from(&told.layers);
        self.over = told.end.is_some();
        events.extend(told.end.clone());
        let mut lines = Vec::new();
        for event in events {
            lines.extend(serde_json::to_vec(&event).unwrap_or_default());
            lines.push(b'\n');
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use tokio::sync::oneshot;

    fn finished(name: &str) -> TransferEvent {
        TransferEvent::Finished { name: name.into(), id: "i".into(), digest: "d".into(), changed: true }
    }

    async fn text(response: Response) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn those_who_want_the_same_share_one_transfer() {
        let transfers = Arc::new(Transfers::default());
        let (go, gone) = oneshot::channel::<()>();
        let first = transfers.follow("a".into(), |transfer| async move {
            gone.await.unwrap();
            let layer = Layer { id: "l".into(), state: LayerState::Done, done: 1, total: 1 };
            transfer.begin("a", "d", vec![layer]);
            Ok(finished("a"))
        });
        let second = transfers.follow("a".into(), |_| async { panic!("it is being done already") });
        go.send(()).unwrap();
        let (first, second) = (text(first).await, text(second).await);
        assert_eq!(first, second);
        assert_eq!(first.lines().count(), 3, "{first}");
    }

    #[tokio::test]
    async fn what_nobody_wants_is_given_up_and_can_be_had_again() {
        let transfers = Arc::new(Transfers::default());
        let (told, given_up) = oneshot::channel::<()>();
        let work = |transfer: Arc<Transfer>| async move {
            transfer.unwanted().await;
            told.send(()).unwrap();
            Err(ErrorBody::new(ErrorKind::Conflict, "given up"))
        };
        let first = transfers.follow("a".into(), work);
        let second = transfers.follow("a".into(), |_| async { panic!("it is being done already") });
        drop(first);
        drop(second);
        // Never joined after it was given up, even if it is not over yet.
        let third = transfers.follow("a".into(), |_| async { Ok(finished("a")) });
        given_up.await.unwrap();
        assert!(text(third).await.contains("finished"));
        transfers.end().await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_right_after_it_was_told_is_told_too() {
        let transfers = Arc::new(Transfers::default());
        let (go, gone) = oneshot::channel::<()>();
        let layer = |state| Layer { id: "l".into(), state, done: 0, total: 1 };
        let response = transfers.follow("a".into(), move |transfer| async move {
            transfer.begin("a", "d", vec![layer(LayerState::Moving)]);
            gone.await.unwrap();
            transfer.layer(0, |layer| layer.state = LayerState::Done);
            // And then nothing for long.
            transfer.unwanted().await;
            Ok(finished("a"))
        });
        let mut body = response.into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(String::from_utf8_lossy(&first).contains("moving"));
        go.send(()).unwrap();
        let second = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(String::from_utf8_lossy(&second).contains("done"));
        drop(body);
    }

    #[tokio::test]
    async fn one_that_panics_is_over() {
        let transfers = Arc::new(Transfers::default());
        let response = transfers.follow("a".into(), |_| async { panic!("on purpose") });
        assert!(text(response).await.contains("failed inside"));
    }
}
