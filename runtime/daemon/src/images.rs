//! Images: `/v1/images…`. The store is synchronous, so each handler works on a thread that may block.

use crate::body::reader;
use crate::error::{ApiError, Result};
use crate::names;
use crate::reserve::Reserve;
use crate::state::Shared;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use bytes::Bytes;
use tokio::sync::mpsc;
use vial_api::{ErrorKind, ImageSummary, ImportQuery, LoadEvent, LoadQuery, RemoveImageQuery, RemovedImage};
use vial_image::{Error, ImageStore, ImportConfig, LoadSource, LoadedImage, Progress};

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            vial_image::ErrorKind::NotFound => ErrorKind::NoSuchImage,
            vial_image::ErrorKind::Conflict => ErrorKind::Conflict,
            vial_image::ErrorKind::InvalidInput => ErrorKind::BadImage,
            vial_image::ErrorKind::NoSpace => ErrorKind::NoSpace,
            vial_image::ErrorKind::Internal => ErrorKind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

/// A missing image, with a guess at what was meant.
fn missing(store: &ImageStore, wanted: &str) -> ApiError {
    let images = store.list().unwrap_or_default();
    let known: Vec<&str> = images.iter().flat_map(|image| &image.names).map(String::as_str).collect();
    // Most people leave the tag out, so a name without one is compared with names without one.
    let guess = names::suggest(wanted, known.iter().copied()).or_else(|| {
        let short = known.iter().copied().map(|name| name.rsplit_once(':').map_or(name, |(name, _)| name));
        names::suggest(wanted, short)
    });
    let hint = match guess {
        Some(name) => format!("did you mean {name}?"),
        None if known.is_empty() => {
            "there are no images yet; fetch one with vial pull, or load one with: vial load -i FILE"
                .to_owned()
        }
        None => "see: vial images".to_owned(),
    };
    ApiError::new(ErrorKind::NoSuchImage, format!("there is no image {wanted} on this machine; {hint}"))
}

/// The same error, but a missing image with a guess at what was meant.
pub(crate) fn or_missing(store: &ImageStore, wanted: &str, error: Error) -> ApiError {
    match error {
        Error::NotFound(_) => missing(store, wanted),
        other => other.into(),
    }
}

/// The image of this name or id.
///
/// # Errors
/// When there is none, or the store is broken.
pub async fn resolve(daemon: &Shared, wanted: &str) -> Result<vial_image::Image> {
    let (store, wanted) = (daemon.images.clone(), wanted.to_owned());
    tokio::task::spawn_blocking(move || {
        store.resolve(&wanted).map_err(|error| or_missing(&store, &wanted, error))
    })
    .await?
}

/// `GET /v1/images`
pub async fn list(State(daemon): State<Shared>) -> Result<Json<Vec<ImageSummary>>> {
    let store = daemon.images.clone();
    let images = tokio::task::spawn_blocking(move || store.list().map_err(ApiError::from)).await??;
    let summary = |image: vial_image::ImageSummary| ImageSummary {
        id: image.id.to_string(),
        names: image.names,
        created: image.created,
        size: image.size,
    };
    Ok(Json(images.into_iter().map(summary).collect()))
}

/// `GET /v1/images/{name}`
pub async fn inspect(
    State(daemon): State<Shared>,
    Path(name): Path<String>,
) -> Result<Json<serde_json::Value>> {
    let image = resolve(&daemon, &name).await?;
    let config = serde_json::from_str(&image.config_json).map_err(|error| {
        ApiError::new(ErrorKind::Internal, format!("the image's configuration is damaged: {error}"))
    })?;
    Ok(Json(crate::inspect::image(&image, &config)))
}

/// `DELETE /v1/images/{name}`
pub async fn remove(
    State(daemon): State<Shared>,
    Path(name): Path<String>,
    Query(query): Query<RemoveImageQuery>,
) -> Result<Json<RemovedImage>> {
    let report = tokio::task::spawn_blocking(move || {
        // When the store of containers can't be asked, an image counts as used: better kept than torn away.
        let in_use =
            |id: &vial_image::ImageId| !matches!(daemon.store.image_in_use(&id.to_string()), Ok(None));
        let reserve = Reserve::of(&daemon.paths);
        let removed = reserve.lend(|| {
            let removed = daemon.images.remove(&name, &in_use, query.force);
            removed.map_err(|error| or_missing(&daemon.images, &name, error))
        });
        reserve.keep();
        removed
    })
    .await??;
    Ok(Json(RemovedImage {
        untagged: report.untagged,
        deleted: report.deleted.iter().map(ToString::to_string).collect(),
    }))
}

/// `POST /v1/images/load`
pub async fn load(
    State(daemon): State<Shared>,
    Query(query): Query<LoadQuery>,
    body: Body,
) -> Result<Response> {
    let store = daemon.images.clone();
    let source = match query.path {
        // The daemon's working folder is nobody's business.
        Some(path) if !path.starts_with('/') => {
            return Err(ApiError::new(
                ErrorKind::InvalidArgument,
                format!(
                    "path={path:?} is not absolute; begin it with /, or send the archive as the request's body"
                ),
            ));
        }
        Some(path) => LoadSource::Path(path.into()),
        None => LoadSource::Reader(Box::new(reader(body))),
    };
    Ok(events(move |say| {
        store.load(source, &mut |progress| say(event(progress)))?;
        Ok(())
    }))
}

/// `POST /v1/images/import`
pub async fn import(
    State(daemon): State<Shared>,
    Query(query): Query<ImportQuery>,
    body: Body,
) -> Result<Response> {
    let changes: Vec<&str> = query.changes.as_deref().unwrap_or_default().lines().collect();
    let changes = ImportConfig::parse(&changes)
        .map_err(|error| ApiError::new(ErrorKind::InvalidArgument, error.to_string()))?;
    let store = daemon.images.clone();
    let source = reader(body);
    Ok(events(move |say| {
        let LoadedImage { id, names } = store.import(source, &query.name, changes)?;
        say(LoadEvent::Loaded { id: id.to_string(), names });
        Ok(())
    }))
}

fn event(progress: Progress) -> LoadEvent {
    let plain = |what: String, done| LoadEvent::Progress { what, done, total: None };
    match progress {
        Progress::Spooling { bytes } => plain("reading the archive".into(), bytes),
        Progress::Layer { number, count, bytes, .. } => plain(format!("layer {number} of {count}"), bytes),
        Progress::LayerDone { number, count, reused, .. } => {
            plain(format!("layer {number} of {count} {}", if reused { "was there" } else { "done" }), 0)
        }
        Progress::Warning(message) => LoadEvent::Warning { message },
        Progress::Done(LoadedImage { id, names }) => LoadEvent::Loaded { id: id.to_string(), names },
        _ => plain("working".into(), 0),
    }
}

/// An answer of JSON lines from a thread that blocks. It works on when the client is gone: half a load helps nobody, and
/// what is there by then is whole.
fn events(work: impl FnOnce(&mut dyn FnMut(LoadEvent)) -> Result<()> + Send + 'static) -> Response {
    let (sender, receiver) = mpsc::channel::<Bytes>(64);
    tokio::task::spawn_blocking(move || {
        let line = |event: &LoadEvent| {
            let mut line = serde_json::to_vec(event).unwrap_or_default();
            line.push(b'\n');
            Bytes::from(line)
        };
        let mut say = |event: LoadEvent| match event {
            // Progress that nobody reads in time is old news.
            LoadEvent::Progress { .. } => drop(sender.try_send(line(&event))),
            _ => drop(sender.blocking_send(line(&event))),
        };
        let last = match work(&mut say) {
            Ok(()) => LoadEvent::Done,
            Err(error) => LoadEvent::Failed(error.0),
        };
        say(last);
    });
    let lines = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let line = receiver.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(line), receiver))
    });
    Response::new(Body::from_stream(lines))
}
