//! How fast and with how much memory a layer tar becomes a layer file, beside `mkfs.erofs` on the unpacked tree:
//! `cargo run --release -p vial-image --example erofs_bench [-- [--runs N] [TAR]]`. Without TAR it makes one of 500 MB.
//!
//! One warm-up and N (10) runs of each, alternating, sources in the page cache. Ours includes both digests. "Synced"
//! adds the fsync with which the store makes a layer last; mkfs.erofs does none.

use std::error::Error;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use vial_image::layer;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let mut first = arguments.next();
    if first.as_deref() == Some("--once".as_ref()) {
        // The child whose memory is measured.
        let [tar, out] =
            [arguments.next(), arguments.next()].map(|path| PathBuf::from(path.unwrap_or_default()));
        convert(&tar, &out)?;
        return Ok(());
    }
    let mut runs = 10;
    if first.as_deref() == Some("--runs".as_ref()) {
        runs =
            arguments.next().and_then(|text| text.to_str()?.parse().ok()).ok_or("--runs needs a number")?;
        first = arguments.next();
    }
    let work = tempfile::tempdir()?;
    let tar = match first {
        Some(tar) => PathBuf::from(tar),
        None => make_tar(&work.path().join("layer.tar"))?,
    };
    let tree = work.path().join("tree");
    fs::create_dir(&tree)?;
    run(Command::new("tar").arg("-xf").arg(&tar).arg("-C").arg(&tree))?;
    let out = work.path().join("layer.erofs");
    let rival = has("mkfs.erofs");
    let (mut ours, mut synced, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..=runs {
        let started = Instant::now();
        let file = convert(&tar, &out)?;
        ours.push(started.elapsed());
        file.sync_all()?;
        synced.push(started.elapsed());
        if rival {
            let _ = fs::remove_file(&out);
            let started = Instant::now();
            run(Command::new("mkfs.erofs").args(["--quiet", "-x", "1"]).arg(&out).arg(&tree))?;
            theirs.push(started.elapsed());
        }
    }
    println!("{}: {} bytes, {runs} runs after one warm-up", tar.display(), fs::metadata(&tar)?.len());
    print_row("vial: tar, streamed, with SHA-256", &ours);
    print_row("vial: the same, synced", &synced);
    let peak = peak_memory(Command::new(std::env::current_exe()?).arg("--once").arg(&tar).arg(&out));
    println!("{:<36} {:>6}", "vial: peak memory, processor time", peak.unwrap_or_default());
    if rival {
        print_row("mkfs.erofs: unpacked tree, no digest", &theirs);
        let _ = fs::remove_file(&out);
        let peak = peak_memory(Command::new("mkfs.erofs").args(["--quiet", "-x", "1"]).arg(&out).arg(&tree));
        println!("{:<36} {:>9}", "mkfs.erofs: the same", peak.unwrap_or_default());
    } else {
        println!("mkfs.erofs is not installed (Debian package erofs-utils): nothing to compare with");
    }
    Ok(())
}

fn convert(tar: &Path, out: &Path) -> Result<File, Box<dyn Error>> {
    let _ = fs::remove_file(out);
    let file = File::options().read(true).write(true).create_new(true).open(out)?;
    let frame = out.with_extension("frame");
    layer::write(File::open(tar)?, &file, &File::create(&frame)?, &mut |_| {})?;
    fs::remove_file(frame)?;
    Ok(file)
}

/// Ten thousand files between 1 and 100 KiB with bytes that don't repeat: the shape of a distribution.
fn make_tar(path: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let tree = path.with_extension("source");
    let mut random = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for index in 0..10_000 {
        let dir = tree.join(format!("{:02}", index % 100));
        fs::create_dir_all(&dir)?;
        let mut file = BufWriter::new(File::create(dir.join(format!("file-{index}")))?);
        for _ in 0..(1024 + next() % (99 << 10)) / 8 {
            file.write_all(&next().to_le_bytes())?;
        }
        file.flush()?;
    }
    run(Command::new("tar").arg("-cf").arg(path).arg("-C").arg(&tree).arg("."))?;
    fs::remove_dir_all(&tree)?;
    Ok(path.to_owned())
}

fn run(command: &mut Command) -> Result<(), Box<dyn Error>> {
    let status = command.stdout(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} failed: {status}").into()) }
}

fn has(program: &str) -> bool {
    Command::new(program).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Peak memory and processor time of one more run, by GNU time: on a busy machine the latter says more than the clock.
fn peak_memory(command: &mut Command) -> Option<String> {
    let mut timed = Command::new("/usr/bin/time");
    timed.args(["-f", "%M %U %S"]).arg(command.get_program()).args(command.get_args());
    let output = timed.stdout(Stdio::null()).stderr(Stdio::piped()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut fields = text.lines().last()?.split_whitespace().map(str::parse::<f64>);
    let mut field = || fields.next()?.ok();
    let (kib, user, system) = (field()?, field()?, field()?);
    Some(format!("{:.1} MiB; user {user:.2} s, system {system:.2} s", kib / 1024.0))
}

fn print_row(name: &str, times: &[Duration]) {
    let mut times = times[1..].to_vec();
    times.sort_unstable();
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    println!(
        "{name:<36} {:>6.0} ms  ({:.0} to {:.0})",
        ms(times[times.len() / 2]),
        ms(times[0]),
        ms(times[times.len() - 1])
    );
}
