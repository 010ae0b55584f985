//! What tests share: writing tars byte by byte, so that they can be wrong in any way.

use std::fs::File;
use std::io::Write;

use crate::digest::Digest;
use crate::erofs::reader;
use crate::layer;
use crate::tree::Tree;

/// A tar in the making.
#[derive(Default, Clone)]
pub struct Tar(pub Vec<u8>);

/// One header with its most used fields.
pub struct Head<'a> {
    pub name: &'a [u8],
    pub flag: u8,
    pub link: &'a [u8],
    pub size: u64,
    pub mode: u32,
    pub device: (u32, u32),
}

impl Default for Head<'_> {
    fn default() -> Self {
        Head { name: b"f", flag: b'0', link: b"", size: 0, mode: 0o644, device: (0, 0) }
    }
}

/// A checksummed ustar block.
pub fn header(head: &Head<'_>) -> [u8; 512] {
    let mut block = [0u8; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &head.name[..head.name.len().min(100)]);
    put(100, format!("{:07o}\0", head.mode).as_bytes());
    put(108, b"0000000\x000000000\0");
    if head.size < 1 << 33 {
        put(124, format!("{:011o}\0", head.size).as_bytes());
    } else {
        put(124, &[&[0x80, 0, 0, 0][..], &head.size.to_be_bytes()].concat());
    }
    put(136, b"14524770400\0");
    put(156, &[head.flag]);
    put(157, &head.link[..head.link.len().min(100)]);
    put(257, b"ustar\x0000");
    put(329, format!("{:07o}\0{:07o}\0", head.device.0, head.device.1).as_bytes());
    seal(&mut block);
    block
}

/// Computes the checksum.
pub fn seal(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Records with their lengths, which count themselves.
pub fn pax_records(records: &[(&str, &str)]) -> Vec<u8> {
    let mut body = String::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let digits = (1..).find(|digits| (rest + digits).to_string().len() == *digits).unwrap();
        body.push_str(&format!("{} {key}={value}\n", rest + digits));
    }
    body.into_bytes()
}

impl Tar {
    pub fn head(mut self, head: &Head<'_>) -> Self {
        self.0.extend_from_slice(&header(head));
        self
    }

    pub fn bytes(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, name: &str, data: &[u8]) -> Self {
        self.long_name(name)
            .head(&Head { name: name.as_bytes(), size: data.len() as u64, ..Head::default() })
            .bytes(data)
    }

    pub fn dir(self, name: &str) -> Self {
        self.long_name(name).head(&Head { name: name.as_bytes(), flag: b'5', mode: 0o755, ..Head::default() })
    }

    pub fn link(self, flag: u8, name: &str, target: &str) -> Self {
        let pax = if target.len() > 100 { self.pax(&[("linkpath", target)]) } else { self };
        pax.head(&Head {
            name: name.as_bytes(),
            flag,
            link: target.as_bytes(),
            mode: 0o777,
            ..Head::default()
        })
    }

    pub fn hardlink(self, name: &str, target: &str) -> Self {
        self.link(b'1', name, target)
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.link(b'2', name, target)
    }

    pub fn pax(self, records: &[(&str, &str)]) -> Self {
        let body = pax_records(records);
        self.head(&Head { name: b"pax", flag: b'x', size: body.len() as u64, ..Head::default() }).bytes(&body)
    }

    fn long_name(self, name: &str) -> Self {
        if name.len() > 100 { self.pax(&[("path", name)]) } else { self }
    }

    /// With the two blocks that end it.
    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// Streams a tar into a layer file and reads its tree back.
pub fn layer(tar: &[u8]) -> Result<(Tree, File), layer::LayerError> {
    let file = tempfile::tempfile().unwrap();
    layer::write(tar, &file, &tempfile::tempfile().unwrap(), &mut |_| {})?;
    let image = reader::read(&file).unwrap();
    Ok((image.tree, file))
}

/// A docker-archive of one image.
pub fn docker_archive(name: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let (config, config_name) = config(&ids);
    let members: Vec<String> = (0..layers.len()).map(|i| format!("{i}.tar")).collect();
    let manifest = serde_json::json!([{ "Config": config_name, "RepoTags": [name], "Layers": members }]);
    let mut tar = Tar::default()
        .file("manifest.json", manifest.to_string().as_bytes())
        .file(&config_name, config.as_bytes());
    for (member, layer) in members.iter().zip(layers) {
        tar = tar.file(member, layer);
    }
    tar.end()
}

/// A configuration with these layers, and its member's name.
pub fn config(ids: &[Digest]) -> (String, String) {
    let config = serde_json::json!({
        "architecture": crate::archive::host_architecture(), "os": "linux", "config": { "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": ids },
    })
    .to_string();
    let name = format!("{}.json", Digest::of(config.as_bytes()).hex());
    (config, name)
}

/// A layer with one file.
pub fn simple(content: &[u8]) -> Vec<u8> {
    Tar::default().dir("bin").file("bin/sh", content).end()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
