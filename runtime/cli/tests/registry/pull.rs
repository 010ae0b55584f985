//! Pulls that work, whatever happens on the way.

use crate::home::{Home, signal};
use crate::server::{Image, Reply, Server, Then, layer, manifest, ranged};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

fn image() -> Image {
    Image::new(&[layer("a", 300_000), layer("b", 5_000), layer("c", 10), layer("d", 10)])
}

#[test]
fn an_image_comes_once_and_is_up_to_date_afterwards() {
    let (home, image) = (Home::new(), image());
    let server = Server::start({
        let image = image.clone();
        move |seen| image.answer(seen)
    });
    let name = format!("{}/some/app:v1", server.address);
    let out = home.ok(&["pull", "--insecure", &name]);
    assert!(out.contains("Downloaded newer image") && out.ends_with(&format!("{name}\n")), "{out}");
    assert!(home.ok(&["images"]).contains(&name));
    assert!(home.ok(&["inspect", &name]).contains("\"Cmd\""));
    let blobs = server.count("GET", "/blobs/");
    assert_eq!(blobs, 5);
    let out = home.ok(&["pull", "--insecure", &name]);
    assert!(out.contains("up to date"), "{out}");
    assert_eq!(server.count("GET", "/blobs/"), blobs + 1, "only the configuration is fetched again");
    // By digest, under a name of its own.
    let digest = vial_registry::digest_of(&image.manifest);
    let by_digest = format!("{}/some/app@{digest}", server.address);
    assert_eq!(home.ok(&["pull", "-q", "--insecure", &by_digest]), format!("{by_digest}\n"));
    assert!(home.ok(&["inspect", &by_digest]).contains("\"Cmd\""));
}

#[test]
fn a_cut_connection_is_taken_up_where_it_was() {
    for knows_ranges in [true, false] {
        let (home, image) = (Home::new(), image());
        let cuts = AtomicUsize::new(0);
        let server = Server::start(move |seen| {
            let mut reply = image.answer(seen);
            if !knows_ranges && reply.status == 206 {
                reply = Reply::new(200, image.layers[0].clone());
            }
            // The big layer breaks three times, each time further on.
            if reply.body.len() > 50_000 && cuts.fetch_add(1, Ordering::SeqCst) < 3 {
                let cut = if knows_ranges { 50_000 } else { 50_000 * cuts.load(Ordering::SeqCst) };
                return reply.then(Then::Cut(cut));
            }
            reply
        });
        let name = format!("{}/app", server.address);
        let output = home.command(&["pull", "--insecure", &name]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.contains("Connection lost"), "{said}");
        let ranges: Vec<String> =
            server.seen().iter().filter_map(|seen| Some(seen.header("range")?.to_owned())).collect();
        assert_eq!(ranges, ["bytes=50000-", "bytes=100000-", "bytes=150000-"], "{knows_ranges}");
    }
}

#[test]
fn an_index_gives_the_image_for_this_machine_and_says_what_else_it_has() {
    let home = Home::new();
    let ours = image();
    let tar = layer("x", 10);
    let other = Image::with_diff_ids(
        std::slice::from_ref(&tar),
        &[vial_registry::digest_of(&tar).to_string()],
        "arm64",
    );
    let entry = |image: &Image, architecture: &str| {
        let mut entry = crate::server::descriptor("manifest.v1+json", &image.manifest);
        entry["platform"] = serde_json::json!({ "os": "linux", "architecture": architecture });
        entry
    };
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry(&other, "arm64"), entry(&ours, "amd64")],
    });
    let index = index.to_string().into_bytes();
    let server = Server::start(move |seen| {
        if seen.path.ends_with("/manifests/latest") {
            return manifest(&index, "index.v1+json");
        }
        let digest = vial_registry::digest_of(&other.manifest).to_string();
        let foreign = seen.path.ends_with(&digest) || !ours.answer(seen).status.to_string().starts_with('2');
        if foreign { other.answer(seen) } else { ours.answer(seen) }
    });
    let name = format!("{}/app", server.address);
    home.ok(&["pull", "-q", "--insecure", &name]);
    home.fails(
        &["pull", "--insecure", "--platform", "linux/s390x", &name],
        "only for linux/arm64, linux/amd64",
    );
    home.fails(&["pull", "--insecure", "--platform", "linux/arm64", &name], "this machine is amd64");
    home.fails(&["pull", "--insecure", "--platform", "a b", &name], "no platform");
}

#[test]
fn tokens_are_fetched_with_and_without_a_password() {
    let (home, image) = (Home::new(), image());
    let tokens = Server::start(|seen| match seen.header("authorization") {
        // "me:secret"
        Some("Basic bWU6c2VjcmV0") => Reply::new(200, r#"{"token":"for-me"}"#),
        Some(_) => Reply::new(401, r#"{"details":"incorrect username or password"}"#),
        None => Reply::new(200, r#"{"access_token":"for-all"}"#),
    });
    let realm = format!("http://{}/token", tokens.address);
    let server = Server::start(move |seen| {
        let allowed = match seen.header("authorization") {
            Some("Bearer for-me") => true,
            Some("Bearer for-all") => seen.path.contains("/public/"),
            _ => false,
        };
        let challenge =
            format!("Bearer realm=\"{realm}\",service=\"test\",scope=\"repository:{}:pull\"", "x");
        if allowed {
            image.answer(seen)
        } else {
            Reply::new(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#)
                .with("WWW-Authenticate", challenge)
        }
    });
    let public = format!("{}/public/app", server.address);
    let private = format!("{}/private/app", server.address);
    home.ok(&["pull", "-q", "--insecure", &public]);
    assert_eq!(tokens.count("GET", "scope=repository%3Apublic%2Fapp%3Apull"), 1, "one token does for all");
    let said = home.fails(&["pull", "--insecure", &private], "vial login");
    assert!(said.contains("authentication required"), "{said}");
    let auths = |auth: &str| {
        let text = format!(r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#, server.address);
        std::fs::write(home.path("docker/config.json"), text).unwrap();
    };
    // "me:wrong"
    auths("bWU6d3Jvbmc=");
    home.fails(&["pull", "--insecure", &private], "incorrect username or password");
    auths("bWU6c2VjcmV0");
    home.ok(&["pull", "-q", "--insecure", &private]);
}

#[test]
fn a_redirect_gets_no_credentials_of_another_host() {
    let (home, image) = (Home::new(), image());
    let store = Server::start({
        let image = image.clone();
        move |seen| image.answer(seen)
    });
    let elsewhere = store.address.clone();
    let server = Server::start(move |seen| {
        if seen.header("authorization").is_none() {
            return Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"x\"");
        }
        if image.wants_layer(seen) {
            return Reply::new(307, "").with("Location", format!("http://{elsewhere}{}", seen.path));
        }
        image.answer(seen)
    });
    let text = format!(r#"{{"auths":{{"{}":{{"auth":"bWU6c2VjcmV0"}}}}}}"#, server.address);
    std::fs::write(home.path("docker/config.json"), text).unwrap();
    home.ok(&["pull", "-q", "--insecure", &format!("{}/app", server.address)]);
    assert_eq!(store.count("GET", "/blobs/"), 4);
    assert!(store.seen().iter().all(|seen| seen.header("authorization").is_none()));
}

#[test]
fn two_clients_share_one_download() {
    let (home, image) = (Home::new(), image());
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let server = Server::start(move |seen| {
        if image.wants_layer(seen) {
            // Open for all once the sender is gone.
            let _ = gate.lock().unwrap().recv();
        }
        image.answer(seen)
    });
    let name = format!("{}/app", server.address);
    home.patient_daemon();
    let mut first = home.spawn(&["pull", "--insecure", &name]);
    first.wait_for("Pulling");
    let mut second = home.spawn(&["pull", "--insecure", &name]);
    second.wait_for("Pulling");
    drop(open);
    assert!(first.end().0 && second.end().0);
    assert_eq!(server.count("GET", "/blobs/"), 5);
}

#[test]
fn a_mirror_is_asked_first_and_another_place_when_it_fails() {
    let (home, image) = (Home::new(), image());
    let broken = Server::start(|_| Reply::new(500, "out of order"));
    let mirror = Server::start({
        let image = image.clone();
        move |seen| image.answer(seen)
    });
    let config = serde_json::json!({
        "mirrors": { "registry.invalid": [format!("http://{}", broken.address), format!("http://{}", mirror.address)] },
    });
    std::fs::write(home.path("config/registries.json"), config.to_string()).unwrap();
    home.ok(&["pull", "-q", "registry.invalid/app"]);
    assert_eq!(broken.count("GET", "/v2/app/manifests/latest"), 1);
    assert!(home.ok(&["images"]).contains("registry.invalid/app:latest"));
    home.fails(&["pull", "other.invalid/app"], "can't be reached");
    std::fs::write(home.path("config/registries.json"), "{").unwrap();
    home.fails(&["pull", "registry.invalid/app"], "registries.json");
}

/// A registry whose big layer stalls after its beginning, until told that it does not.
fn stalling(image: Image) -> (Server, Arc<AtomicBool>) {
    let stalls = Arc::new(AtomicBool::new(true));
    let server = Server::start({
        let stalls = stalls.clone();
        move |seen| {
            let reply = image.answer(seen);
            let big = reply.body.len() > 100_000 && stalls.load(Ordering::SeqCst);
            if big { reply.then(Then::Stall(100_000)) } else { reply }
        }
    });
    (server, stalls)
}

#[test]
fn an_interrupted_pull_and_a_killed_daemon_leave_nothing_and_it_can_be_done_again() {
    let home = Home::new();
    let (server, stalls) = stalling(image());
    let name = format!("{}/app", server.address);
    home.patient_daemon();
    for how in ["INT", "KILL", "daemon"] {
        let mut pull = home.spawn(&["pull", "--insecure", &name]);
        // Small layers are through; the big one is not.
        pull.wait_for("Pull complete");
        if how == "daemon" {
            signal(home.daemon_pid(), "KILL");
            let (ok, said) = pull.end();
            assert!(!ok && said.contains("try again"), "{said}");
            // The next daemon sweeps.
            home.ok(&["images"]);
        } else {
            pull.signal(how);
            assert!(!pull.end().0);
        }
        home.store_is_empty();
        home.patient_daemon();
    }
    stalls.store(false, Ordering::SeqCst);
    home.ok(&["pull", "-q", "--insecure", &name]);
    assert!(home.ok(&["images"]).contains(&name));
}

#[test]
fn run_fetches_what_is_missing_if_it_may() {
    let (home, image) = (Home::new(), image());
    let server = Server::start(move |seen| image.answer(seen));
    let name = format!("{}/app", server.address);
    let said = home.fails(&["run", "--insecure", "--pull", "never", &name], "there is no image");
    assert!(!said.contains("Pulling"), "{said}");
    assert_eq!(server.seen().len(), 0);
    // There is no VM to be had here; what counts is how far it gets.
    let said = home.fails(&["run", "--insecure", &name], "Pulling");
    assert!(!said.contains("cannot pull"), "{said}");
    assert!(home.ok(&["images"]).contains(&name));
    let before = server.count("GET", "/manifests/");
    home.fails(&["run", "--insecure", &name], "");
    assert_eq!(server.count("GET", "/manifests/"), before);
    home.fails(&["run", "--insecure", "--pull", "always", &name], "Already exists");
    assert_eq!(server.count("GET", "/manifests/"), before + 1);
}

#[test]
fn odd_ranges_are_no_ranges() {
    let (home, image) = (Home::new(), image());
    let server = Server::start(move |seen| {
        let reply = image.answer(seen);
        match seen.header("range") {
            Some(_) => ranged(seen, &image.layers[0]).with("X", "").clone_with_range("bytes 0-1/2"),
            None if reply.body.len() > 100_000 => reply.then(Then::Cut(1000)),
            None => reply,
        }
    });
    home.fails(&["pull", "--insecure", &format!("{}/app", server.address)], "asked for bytes from 1000 on");
    home.store_is_empty();
}

impl Reply {
    fn clone_with_range(mut self, range: &str) -> Self {
        self.headers.retain(|(name, _)| name != "Content-Range");
        self.with("Content-Range", range)
    }
}
