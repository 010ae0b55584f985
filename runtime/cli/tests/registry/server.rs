//! A registry of the test's own: well-behaved until told otherwise.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    /// With its query.
    pub path: String,
    headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.path.contains(part)
    }
}

/// What becomes of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    End,
    /// Cut before anything is said.
    Drop,
    /// Cut after so many bytes of the body.
    Cut(usize),
    /// Say nothing more after so many bytes of the body, until the client goes.
    Stall(usize),
}

#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Instead of the body's own length; `None` within: no such header.
    pub length: Option<Option<usize>>,
    pub then: Then,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), length: None, then: Then::End }
    }

    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.into(), value.to_string()));
        self
    }

    pub fn then(mut self, then: Then) -> Self {
        self.then = then;
        self
    }
}

pub struct Server {
    pub address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (answer, note) = (Arc::new(answer), seen.clone());
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, note) = (answer.clone(), note.clone());
                std::thread::spawn(move || {
                    // A client that goes away is part of some tests.
                    let _ = serve(&stream.unwrap(), &*answer, &note);
                });
            }
        });
        Self { address, seen }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn count(&self, method: &str, part: &str) -> usize {
        self.seen().iter().filter(|seen| seen.is(method, part)).count()
    }
}

fn serve(
    stream: &TcpStream,
    answer: &dyn Fn(&Seen) -> Reply,
    note: &Mutex<Vec<Seen>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
    let mut seen =
        Seen { method: method.into(), path: path.into(), headers: HashMap::new(), body: Vec::new() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else { break };
        seen.headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = seen.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    seen.body = vec![0; length];
    reader.read_exact(&mut seen.body)?;
    note.lock().unwrap().push(seen.clone());
    let reply = answer(&seen);
    if reply.then == Then::Drop {
        return Ok(());
    }
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    if let Some(length) = reply.length.unwrap_or(Some(reply.body.len())) {
        head += &format!("Content-Length: {length}\r\n");
    }
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let mut out = stream;
    out.write_all(head.as_bytes())?;
    out.write_all(b"\r\n")?;
    if seen.method == "HEAD" {
        return Ok(());
    }
    match reply.then {
        Then::End | Then::Drop => out.write_all(&reply.body),
        Then::Cut(count) => out.write_all(&reply.body[..count]),
        Then::Stall(count) => {
            out.write_all(&reply.body[..count])?;
            // Until the client goes.
            reader.read_to_end(&mut Vec::new()).map(drop)
        }
    }
}

/// A blob's descriptor.
pub fn descriptor(kind: &str, bytes: &[u8]) -> serde_json::Value {
    serde_json::json!({
        "mediaType": format!("application/vnd.oci.image.{kind}"),
        "digest": vial_registry::digest_of(bytes).to_string(),
        "size": bytes.len(),
    })
}

/// An image: documents and blobs by what their path ends with.
#[derive(Debug, Clone)]
pub struct Image {
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    pub layers: Vec<Vec<u8>>,
}

impl Image {
    /// Of layers that are gzipped tars.
    pub fn new(tars: &[Vec<u8>]) -> Self {
        let diff_ids: Vec<String> =
            tars.iter().map(|tar| vial_registry::digest_of(tar).to_string()).collect();
        Self::with_diff_ids(tars, &diff_ids, "amd64")
    }

    pub fn with_diff_ids(tars: &[Vec<u8>], diff_ids: &[String], architecture: &str) -> Self {
        let config = serde_json::json!({
            "os": "linux", "architecture": architecture, "config": { "Cmd": ["sh"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = config.to_string().into_bytes();
        let layers: Vec<Vec<u8>> = tars.iter().map(|tar| gzip(tar)).collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("config.v1+json", &config),
            "layers": layers.iter().map(|layer| descriptor("layer.v1.tar+gzip", layer)).collect::<Vec<_>>(),
        });
        Self { manifest: manifest.to_string().into_bytes(), config, layers }
    }

    /// What a good registry answers.
    pub fn answer(&self, seen: &Seen) -> Reply {
        if seen.path == "/v2/" {
            return Reply::new(200, "{}");
        }
        if seen.path.contains("/manifests/") {
            return manifest(&self.manifest, "manifest.v1+json");
        }
        let blobs = self.layers.iter().chain([&self.config]);
        let digest = |bytes: &Vec<u8>| vial_registry::digest_of(bytes).to_string();
        match blobs.into_iter().find(|bytes| seen.path.ends_with(&digest(bytes))) {
            Some(bytes) => ranged(seen, bytes),
            None => Reply::new(404, r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}"#),
        }
    }

    /// Whether this asks for a layer.
    pub fn wants_layer(&self, seen: &Seen) -> bool {
        seen.path.contains("/blobs/")
            && !seen.path.ends_with(&vial_registry::digest_of(&self.config).to_string())
    }
}

pub fn manifest(bytes: &[u8], kind: &str) -> Reply {
    Reply::new(200, bytes)
        .with("Content-Type", format!("application/vnd.oci.image.{kind}"))
        .with("Docker-Content-Digest", vial_registry::digest_of(bytes))
}

/// Bytes, from where the request wants them.
pub fn ranged(seen: &Seen, bytes: &[u8]) -> Reply {
    let from =
        seen.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    match from {
        Some(from) => Reply::new(206, &bytes[from..])
            .with("Content-Range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len())),
        None => Reply::new(200, bytes),
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A tar with one file of so many bytes that do not compress.
pub fn layer(name: &str, size: usize) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let mut state = name.bytes().fold(1u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let content: Vec<u8> = (0..size)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    std::fs::write(dir.path().join(name), content).unwrap();
    let out = std::process::Command::new("tar").arg("-C").arg(dir.path()).args(["-cf", "-", name]).output();
    out.unwrap().stdout
}
