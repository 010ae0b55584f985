//! `vial images`, `vial rmi`.

use super::{each, print_json, say};
use crate::args::{ImagesArgs, RmiArgs};
use crate::client::{Client, escape};
use crate::error::Result;
use crate::units::{bytes, cell, table};
use hyper::Method;
use vial_api::{ImageSummary, RemovedImage};

/// Lists images.
///
/// # Errors
/// When the daemon can't.
pub async fn list(client: &Client, args: &ImagesArgs) -> Result<i32> {
    let images: Vec<ImageSummary> = client.json(Method::GET, "/images").await?;
    if args.json {
        print_json(&images)?;
        return Ok(0);
    }
    if args.quiet {
        for image in &images {
            say(short(&image.id))?;
        }
        return Ok(0);
    }
    let mut rows = Vec::new();
    for image in &images {
        let created = image.created.as_deref().unwrap_or("-").chars().take(10).collect::<String>();
        let row = |name: &str| {
            vec![cell(name, 60), short(&image.id).to_owned(), cell(&created, 10), bytes(image.size)]
        };
        if image.names.is_empty() {
            rows.push(row("<none>"));
        }
        rows.extend(image.names.iter().map(|name| row(name)));
    }
    say(&table(&["NAME", "IMAGE ID", "CREATED", "SIZE"], &rows))?;
    Ok(0)
}

/// The first twelve digits of an image's id.
fn short(id: &str) -> &str {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    digits.get(..12).unwrap_or(digits)
}

/// Removes images.
///
/// # Errors
/// None of its own; each failure is printed.
pub async fn remove(client: &Client, args: &RmiArgs) -> Result<i32> {
    Ok(each(&args.names, async |name| {
        let path = format!("/images/{}?force={}", escape(&name), args.force);
        let removed: RemovedImage = client.json(Method::DELETE, &path).await?;
        for name in &removed.untagged {
            say(&format!("Untagged: {name}"))?;
        }
        for id in &removed.deleted {
            say(&format!("Deleted: {id}"))?;
        }
        Ok(())
    })
    .await)
}
