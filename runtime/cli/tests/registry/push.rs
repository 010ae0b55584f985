//! Pushes, names, and who may.

use crate::home::Home;
use crate::server::{Image, Reply, Seen, Server, Then, layer};
use std::collections::HashMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

/// A registry that keeps what it is sent.
#[derive(Default)]
struct Kept {
    blobs: HashMap<String, Vec<u8>>,
    manifests: HashMap<String, (String, Vec<u8>)>,
}

impl Kept {
    fn answer(&mut self, seen: &Seen) -> Reply {
        let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
        let last = path.rsplit('/').next().unwrap();
        let param = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)).map(str::to_owned);
        match seen.method.as_str() {
            "POST" if param("mount=").is_some_and(|digest| self.blobs.contains_key(&digest)) => {
                Reply::new(201, "")
            }
            "POST" => Reply::new(202, "").with("Location", format!("{path}upload?state=x")),
            "PUT" if path.contains("/uploads/") => {
                let digest = param("digest=").unwrap();
                assert_eq!(digest, vial_registry::digest_of(&seen.body).to_string());
                self.blobs.insert(digest, seen.body.clone());
                Reply::new(201, "")
            }
            "PUT" => {
                let kind = seen.header("content-type").unwrap().to_owned();
                self.manifests.insert(path.to_owned(), (kind, seen.body.clone()));
                Reply::new(201, "").with("Docker-Content-Digest", vial_registry::digest_of(&seen.body))
            }
            _ if path.contains("/manifests/") => match self.manifests.get(path) {
                Some((kind, bytes)) => Reply::new(200, bytes.clone())
                    .with("Content-Type", kind)
                    .with("Docker-Content-Digest", vial_registry::digest_of(bytes)),
                None => Reply::new(404, ""),
            },
            _ => match self.blobs.get(last) {
                Some(bytes) => Reply::new(200, bytes.clone()),
                None => Reply::new(404, ""),
            },
        }
    }
}

/// A registry that keeps what it is sent, but first lets somebody else answer.
fn keeping(before: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static) -> (Server, Arc<Mutex<Kept>>) {
    let kept: Arc<Mutex<Kept>> = Arc::default();
    let server = Server::start({
        let kept = kept.clone();
        move |seen| before(seen).unwrap_or_else(|| kept.lock().unwrap().answer(seen))
    });
    (server, kept)
}

/// An image from a registry, under that registry's name.
fn pulled(home: &Home, image: &Image) -> (Server, String) {
    let server = Server::start({
        let image = image.clone();
        move |seen| image.answer(seen)
    });
    let name = format!("{}/from/app:v1", server.address);
    home.ok(&["pull", "-q", "--insecure", &name]);
    (server, name)
}

fn image() -> Image {
    Image::new(&[layer("a", 300_000), layer("b", 100), layer("b", 100)])
}

#[test]
fn what_was_pushed_can_be_pulled_and_is_the_same_image() {
    let (home, image) = (Home::new(), image());
    let (_source, name) = pulled(&home, &image);
    let (server, _) = keeping(|_| None);
    let target = format!("{}/to/app:v2", server.address);
    home.fails(&["push", "--insecure", &target], "there is no image");
    home.ok(&["tag", &name, &target]);
    let out = home.ok(&["push", "--insecure", &target]);
    assert!(out.contains("Status: Pushed"), "{out}");
    assert_eq!(
        server.count("PUT", "/uploads/"),
        3,
        "two layers, since one is there twice, and the configuration"
    );
    let id = |home: &Home, name: &str| {
        let images: serde_json::Value = serde_json::from_str(&home.ok(&["images", "--json"])).unwrap();
        let named = |image: &&serde_json::Value| image["names"].as_array().unwrap().iter().any(|n| n == name);
        images.as_array().unwrap().iter().find(named).unwrap()["id"].clone()
    };
    let other = Home::new();
    other.ok(&["pull", "-q", "--insecure", &target]);
    assert_eq!(id(&other, &target), id(&home, &name));
    // Nothing is sent twice.
    let out = home.ok(&["push", "--insecure", &target]);
    assert!(out.contains("Already there"), "{out}");
    assert_eq!(server.count("PUT", ""), 4);
    // From there it goes back byte for byte, and to another repository without a byte of a layer.
    let again = format!("{}/again/app", server.address);
    other.ok(&["tag", &target, &again]);
    let before = server.count("PUT", "/uploads/");
    let digest = |out: &str| out.lines().find(|line| line.starts_with("Digest")).unwrap().to_owned();
    assert_eq!(digest(&other.ok(&["push", "--insecure", &again])), digest(&out));
    assert_eq!(server.count("PUT", "/uploads/"), before);
}

#[test]
fn a_loaded_or_imported_image_can_be_pushed_too() {
    let home = Home::new();
    let (server, kept) = keeping(|_| None);
    let tar = layer("bin", 5000);
    std::fs::write(home.path("root.tar"), &tar).unwrap();
    let target = format!("{}/made/here:v1", server.address);
    home.ok(&["import", home.path("root.tar").to_str().unwrap(), &target]);
    home.ok(&["push", "-q", "--insecure", &target]);
    let kept = kept.lock().unwrap();
    let layer = kept.blobs.values().find(|blob| blob.starts_with(&[0x1f, 0x8b])).unwrap();
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&layer[..]), &mut plain).unwrap();
    assert!(plain == tar);
}

#[test]
fn a_push_that_breaks_is_tried_again_and_one_that_is_refused_changes_nothing() {
    let (home, image) = (Home::new(), image());
    let (_source, name) = pulled(&home, &image);
    let broken = Mutex::new(1);
    let (server, _) = keeping(move |seen| {
        let mut left = broken.lock().unwrap();
        (seen.is("PUT", "/uploads/") && *left > 0).then(|| {
            *left -= 1;
            Reply::new(201, "").then(Then::Drop)
        })
    });
    let target = format!("{}/app", server.address);
    home.ok(&["tag", &name, &target]);
    home.ok(&["push", "-q", "--insecure", &target]);
    let (server, kept) = keeping(|seen| {
        let denied = r#"{"errors":[{"code":"DENIED","message":"not yours"}]}"#;
        seen.is("POST", "").then(|| Reply::new(403, denied))
    });
    let target = format!("{}/app", server.address);
    home.ok(&["tag", &name, &target]);
    let said = home.fails(&["push", "--insecure", &target], "not yours");
    assert!(said.contains("vial login"), "{said}");
    assert!(kept.lock().unwrap().manifests.is_empty());
}

#[test]
fn login_is_checked_kept_used_and_forgotten() {
    let (home, image) = (Home::new(), image());
    let server = Server::start({
        let image = image.clone();
        move |seen| match seen.header("authorization") {
            // "me:secret"
            Some("Basic bWU6c2VjcmV0") => image.answer(seen),
            _ => Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"r\""),
        }
    });
    let login = |password: &str| {
        let args = ["login", "--insecure", "-u", "me", "--password-stdin", &server.address];
        let mut child = home
            .command(&args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), password.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let name = format!("{}/app", server.address);
    home.fails(&["pull", "--insecure", &name], "vial login");
    let (ok, said) = login("wrong\n");
    assert!(!ok && said.contains("wants other credentials"), "{said}");
    assert!(!home.path("docker/config.json").exists());
    let (ok, said) = login("secret\n");
    assert!(ok && said.contains("unencrypted"), "{said}");
    home.ok(&["pull", "-q", "--insecure", &name]);
    assert!(home.ok(&["logout", &server.address]).contains("Removed"));
    home.fails(&["pull", "--insecure", &name], "vial login");
    assert!(home.ok(&["logout", &server.address]).contains("Not logged in"));
    home.fails(&["login", "--insecure", &server.address], "no terminal");
    home.fails(&["login", "-u", "me", "-p", "x", "a/b"], "no registry's name");
}

#[test]
fn a_helper_keeps_credentials_better() {
    let (home, image) = (Home::new(), image());
    let server = Server::start(move |seen| match seen.header("authorization") {
        Some("Basic bWU6c2VjcmV0") => image.answer(seen),
        _ => Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"r\""),
    });
    // A helper as docker-credential-helpers defines them, that keeps one entry in a file.
    let helper = home.path("docker-credential-test");
    let script = format!(
        "#!/bin/sh\nf={}\ncase $1 in store) cat >$f;; erase) rm -f $f;; get) cat $f 2>/dev/null || \
         {{ echo 'credentials not found in native keychain'; exit 1; }};; esac\n",
        home.path("secret").display()
    );
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let config = format!(r#"{{"credHelpers":{{"{}":"test"}}}}"#, server.address);
    std::fs::write(home.path("docker/config.json"), &config).unwrap();
    let name = format!("{}/app", server.address);
    let run = |args: &[&str]| {
        let path = format!("{}:{}", home.path("").display(), std::env::var("PATH").unwrap());
        let output = home.command(args).env("PATH", path).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert!(!run(&["pull", "--insecure", &name]).0);
    let (ok, said) = run(&["login", "--insecure", "-u", "me", "-p", "secret", &server.address]);
    assert!(ok && !said.contains("unencrypted"), "{said}");
    assert_eq!(std::fs::read_to_string(home.path("docker/config.json")).unwrap(), config);
    let (ok, said) = run(&["pull", "-q", "--insecure", &name]);
    assert!(ok, "{said}");
    assert!(run(&["logout", &server.address]).0);
    assert!(!home.path("secret").exists());
}
