//! `vial container prune`, `image prune`, `system prune`, `system df`.

use super::{print_json, say};
use crate::client::{Client, body, escape};
use crate::error::{Error, Result};
use crate::list_args::{PruneArgs, PruneImagesArgs};
use crate::units::{bytes, table};
use hyper::Method;
use rustix::termios::isatty;
use vial_api::{DiskUse, ErrorKind, RemovedImage, State};

/// Asks on a terminal; elsewhere nobody could answer, so it must have been said.
fn sure(force: bool, what: &str) -> Result<bool> {
    if force {
        return Ok(true);
    }
    if !isatty(std::io::stdin()) {
        return Err(Error::Message("nobody can be asked here; say that you are sure with -f".into()));
    }
    // A prompt that can't be shown is answered all the same.
    crate::output::remark(&format!("This removes {what}.\nAre you sure? [y/N] "));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(Error::io("read the answer"))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "Yes"))
}

async fn usage(client: &Client) -> Result<DiskUse> {
    client.json(Method::GET, "/system/df").await
}

fn is_at_rest(state: State) -> bool {
    matches!(state, State::Created | State::Exited | State::Dead)
}

/// Removes containers that do not run; how many bytes that gave back. One that was started meanwhile is left alone.
async fn remove_containers(client: &Client) -> Result<u64> {
    let mut freed = 0;
    for container in usage(client).await?.containers.iter().filter(|container| is_at_rest(container.state)) {
        match client.send(Method::DELETE, &format!("/containers/{}", container.id), body(""), &[]).await {
            Ok(_) => {
                say(&format!("Deleted container: {}", container.name))?;
                freed += container.layer + container.log;
            }
            Err(Error::Api(body))
                if matches!(body.kind, ErrorKind::Conflict | ErrorKind::NoSuchContainer) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(freed)
}

/// Removes images that no container is made from; with `all` named ones too.
async fn remove_images(client: &Client, all: bool) -> Result<u64> {
    let before = usage(client).await?;
    for image in before.images.iter().filter(|image| image.containers == 0 && (all || image.names.is_empty()))
    {
        let path = format!("/images/{}?force=true", escape(&image.id));
        match client.json::<RemovedImage>(Method::DELETE, &path).await {
            Ok(removed) => {
                for name in &removed.untagged {
                    say(&format!("Untagged: {name}"))?;
                }
                for id in &removed.deleted {
                    say(&format!("Deleted: {id}"))?;
                }
            }
            Err(Error::Api(body)) if matches!(body.kind, ErrorKind::Conflict | ErrorKind::NoSuchImage) => {}
            Err(error) => return Err(error),
        }
    }
    // Shared layers go with their last image: only the whole tells.
    Ok(before.images_size.saturating_sub(usage(client).await?.images_size))
}

fn reclaimed(freed: u64) -> Result<i32> {
    say(&format!("Total reclaimed space: {}", bytes(freed)))?;
    Ok(0)
}

/// `vial container prune`
///
/// # Errors
/// When nobody is sure, or the daemon can't.
pub async fn containers(client: &Client, args: PruneArgs) -> Result<i32> {
    if !sure(args.force, "all containers that do not run")? {
        return Ok(1);
    }
    reclaimed(remove_containers(client).await?)
}

/// `vial image prune`
///
/// # Errors
/// When nobody is sure, or the daemon can't.
pub async fn images(client: &Client, args: PruneImagesArgs) -> Result<i32> {
    let what = if args.all {
        "all images that no container is made from"
    } else {
        "all images without a name that no container is made from"
    };
    if !sure(args.force, what)? {
        return Ok(1);
    }
    reclaimed(remove_images(client, args.all).await?)
}

/// `vial system prune`
///
/// # Errors
/// When nobody is sure, or the daemon can't.
pub async fn system(client: &Client, args: PruneImagesArgs) -> Result<i32> {
    let images =
        if args.all { "all images that no container is made from then" } else { "images without a name" };
    if !sure(args.force, &format!("all containers that do not run, and {images}"))? {
        return Ok(1);
    }
    let freed = remove_containers(client).await?;
    reclaimed(freed + remove_images(client, args.all).await?)
}

/// `vial system df`
///
/// # Errors
/// When the daemon can't.
pub async fn df(client: &Client, json: bool) -> Result<i32> {
    let usage = usage(client).await?;
    if json {
        print_json(&usage)?;
        return Ok(0);
    }
    let sum = |sizes: &mut dyn Iterator<Item = u64>| sizes.sum::<u64>();
    let (images, containers) = (&usage.images, &usage.containers);
    let idle = images.iter().filter(|image| image.containers == 0);
    let at_rest = containers.iter().filter(|container| is_at_rest(container.state));
    let row = |what: &str, total: usize, active: usize, size: u64, free: u64| {
        vec![what.to_owned(), total.to_string(), active.to_string(), bytes(size), bytes(free)]
    };
    let (unused, resting) = (idle.clone().count(), at_rest.clone().count());
    let rows = vec![
        // Layers that are shared with an image in use would stay: this is the most.
        row(
            "Images",
            images.len(),
            images.len() - unused,
            usage.images_size,
            sum(&mut idle.map(|i| i.size)).min(usage.images_size),
        ),
        row(
            "Containers",
            containers.len(),
            containers.len() - resting,
            sum(&mut containers.iter().map(|c| c.layer)),
            sum(&mut at_rest.clone().map(|c| c.layer)),
        ),
        row(
            "Logs",
            containers.len(),
            containers.len() - resting,
            sum(&mut containers.iter().map(|c| c.log)),
            sum(&mut at_rest.map(|c| c.log)),
        ),
    ];
    say(&table(&["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"], &rows))?;
    Ok(0)
}
