//! Registries that lie, stall, send too much or never let anybody in: each ends in words that say so, and leaves nothing.

use crate::home::Home;
use crate::server::{Image, Reply, Seen, Server, Then, layer, manifest};

type Answer = Box<dyn Fn(&Image, &Seen) -> Reply + Send + Sync>;

fn image() -> Image {
    Image::new(&[layer("a", 300_000), layer("b", 100)])
}

/// Pulls from a registry with this one vice.
#[track_caller]
fn refused(image: Image, says: &str, vice: Answer) -> Server {
    let home = Home::new();
    let server = Server::start(move |seen| vice(&image, seen));
    home.fails(&["pull", "--insecure", &format!("{}/app", server.address)], says);
    home.store_is_empty();
    server
}

fn on_big_layer(change: impl Fn(Reply) -> Reply + Send + Sync + 'static) -> Answer {
    Box::new(move |image, seen| {
        let reply = image.answer(seen);
        if reply.body.len() > 100_000 { change(reply) } else { reply }
    })
}

#[test]
fn a_registry_that_stalls_is_given_up() {
    // In the middle, and at once when it is asked for the rest.
    let middle = on_big_layer(|reply| {
        let rest = reply.status == 206;
        reply.then(Then::Stall(if rest { 0 } else { 150_000 }))
    });
    refused(image(), "nothing came for 1 seconds", middle);
    refused(image(), "nothing came for 1 seconds", on_big_layer(|reply| reply.then(Then::Stall(0))));
}

#[test]
fn a_registry_that_always_dies_is_given_up() {
    refused(image(), "the connection broke", on_big_layer(|reply| reply.then(Then::Cut(0))));
}

#[test]
fn sizes_are_enforced() {
    // Announced, and not announced.
    refused(
        image(),
        "of a blob that should have",
        on_big_layer(|mut reply| {
            reply.body.extend([0; 1000]);
            reply
        }),
    );
    refused(
        image(),
        "of a blob that should have",
        on_big_layer(|mut reply| {
            reply.body.extend(vec![0; 1 << 20]);
            reply.length = Some(None);
            reply
        }),
    );
    refused(
        image(),
        "of a blob that should have",
        on_big_layer(|mut reply| {
            reply.body.truncate(1000);
            reply
        }),
    );
}

#[test]
fn lies_about_content_are_found() {
    refused(
        image(),
        "its digest is",
        on_big_layer(|mut reply| {
            // The checksum of gzip lies before the end; its header's operating system says nothing.
            reply.body[9] ^= 0xff;
            reply
        }),
    );
    let tars = [layer("a", 300_000)];
    let lies = Image::with_diff_ids(&tars, &[format!("sha256:{}", "0".repeat(64))], "amd64");
    refused(lies, "its diff_id is", Box::new(|image, seen| image.answer(seen)));
    refused(
        image(),
        "its manifest has the digest",
        Box::new(|image, seen| {
            let mut reply = image.answer(seen);
            if seen.path.contains("/manifests/") {
                reply.body.push(b' ');
            }
            reply
        }),
    );
    refused(
        image(),
        "its configuration has the digest",
        Box::new(|image, seen| {
            let mut reply = image.answer(seen);
            if seen.path.contains("/blobs/") && !image.wants_layer(seen) {
                reply.body[10] ^= 1;
            }
            reply
        }),
    );
}

#[test]
fn documents_are_bounded_and_must_make_sense() {
    refused(
        image(),
        "its manifest has more than 4194304 bytes",
        Box::new(|_, _| manifest(&vec![b' '; 5 << 20], "manifest.v1+json")),
    );
    refused(image(), "is no image", Box::new(|_, _| Reply::new(200, r#"{"schemaVersion":2}"#)));
    refused(image(), "does not parse", Box::new(|_, _| manifest(b"<html>", "manifest.v1+json")));
    // Indexes that lead to indexes, down to where an image would be.
    let mut documents = vec![image().manifest];
    for depth in 0..6 {
        let kind = if depth == 0 { "manifest.v1+json" } else { "index.v1+json" };
        let mut entry = crate::server::descriptor(kind, &documents[depth]);
        entry["platform"] = serde_json::json!({ "os": "linux", "architecture": "amd64" });
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": [entry],
            "mediaType": "application/vnd.oci.image.index.v1+json" });
        documents.push(index.to_string().into_bytes());
    }
    let deep: Answer = Box::new(move |_, seen| {
        let named = |document: &&Vec<u8>| seen.path.ends_with(vial_registry::digest_of(document).as_ref());
        let found = documents.iter().find(named).or(documents.last()).unwrap();
        manifest(found, "index.v1+json")
    });
    refused(image(), "too deep", deep);
}

#[test]
fn a_registry_that_lets_nobody_in_is_not_asked_for_ever() {
    let server = refused(
        image(),
        "it wants other credentials: go away",
        Box::new(|_, seen| match seen.path.split('?').next() {
            Some("/token") => Reply::new(200, r#"{"token":"useless"}"#),
            _ => Reply::new(401, r#"{"errors":[{"message":"go away"}]}"#).with(
                "WWW-Authenticate",
                format!("Bearer realm=\"http://{}/token\"", seen.header("host").unwrap()),
            ),
        }),
    );
    assert!(server.seen().len() <= 3, "{:?}", server.seen());
    refused(image(), "vial login", Box::new(|_, _| Reply::new(401, "")));
    refused(
        image(),
        "its token has characters",
        Box::new(|_, seen| match seen.path.split('?').next() {
            Some("/token") => Reply::new(200, r#"{"token":"a\r\nX-Evil: b"}"#),
            _ => Reply::new(401, "").with(
                "WWW-Authenticate",
                format!("Bearer realm=\"http://{}/token\"", seen.header("host").unwrap()),
            ),
        }),
    );
    refused(
        image(),
        "plain HTTP at another machine",
        Box::new(|_, _| {
            Reply::new(401, "").with("WWW-Authenticate", "Bearer realm=\"http://192.0.2.1/token\"")
        }),
    );
}

#[test]
fn redirects_are_bounded_and_stay_where_they_may() {
    let server = refused(
        image(),
        "there are more than",
        Box::new(|_, seen| Reply::new(302, "").with("Location", format!("{}x", seen.path))),
    );
    assert!(server.seen().len() < 10);
    for (location, says) in [
        ("http://192.0.2.1/x", "plain HTTP at another machine"),
        ("ftp://192.0.2.1/x", "no web address"),
        ("file:///etc/passwd", "refused"),
        ("elsewhere", "refused"),
    ] {
        refused(image(), says, Box::new(move |_, _| Reply::new(302, "").with("Location", location)));
    }
}

#[test]
fn words_from_outside_can_not_steer_the_terminal() {
    let home = Home::new();
    let server = Server::start(|_| Reply::new(500, "\u{1b}[2J\u{7}sorry"));
    let said = home.fails(&["pull", "--insecure", &format!("{}/app", server.address)], "sorry");
    assert!(!said.contains('\u{1b}') && !said.contains('\u{7}'), "{said:?}");
}
