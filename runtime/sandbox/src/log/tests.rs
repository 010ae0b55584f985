use super::*;
use proptest::prelude::*;
use std::fs;

const SMALL: Limits = Limits { segment: 4 << 10, segments: 1 << 20 };

fn read_all(reader: &mut Reader) -> (Vec<u8>, Vec<u8>, u64) {
    let (mut out, mut err, mut missing) = (Vec::new(), Vec::new(), 0);
    while let Some(item) = reader.read().unwrap() {
        match item {
            Item::Data { stream: Stream::Stdout, offset, bytes, .. } => {
                assert_eq!(offset, out.len() as u64 + missing);
                out.extend(bytes);
            }
            Item::Data { bytes, .. } => err.extend(bytes),
            Item::Gap { bytes, .. } => missing += bytes,
        }
    }
    (out, err, missing)
}

fn last_segment(dir: &std::path::Path) -> std::path::PathBuf {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names.pop().unwrap()
}

fn chunks() -> impl Strategy<Value = Vec<(bool, Vec<u8>)>> {
    prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 1..1500)), 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// A daemon is killed while it writes (the tail is cut anywhere), another opens the log, says where it is, and gets the streams from
    /// there: what is read in the end is what the container wrote, no byte lost, none doubled.
    #[test]
    fn a_torn_tail_loses_and_doubles_nothing(chunks in chunks(), cut in any::<prop::sample::Index>()) {
        let dir = tempfile::tempdir().unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut writer = Writer::open(dir.path(), SMALL).unwrap();
        for (is_err, bytes) in &chunks {
            let (stream, whole) = if *is_err { (Stream::Stderr, &mut err) } else { (Stream::Stdout, &mut out) };
            writer.append(stream, whole.len() as u64, bytes, 7).unwrap();
            whole.extend_from_slice(bytes);
        }
        drop(writer);

        let path = last_segment(dir.path());
        let length = fs::metadata(&path).unwrap().len();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        let cut = cut.index(length as usize + 1) as u64;
        file.set_len(cut).unwrap();

        let mut writer = Writer::open(dir.path(), SMALL).unwrap();
        let at = writer.position();
        prop_assert!(at.stdout <= out.len() as u64 && at.stderr <= err.len() as u64);
        // The agent may send from before the position too: what is there already is skipped.
        let from = at.stdout.saturating_sub(100);
        writer.append(Stream::Stdout, from, &out[from as usize..], 8).unwrap();
        writer.append(Stream::Stderr, at.stderr, &err[at.stderr as usize..], 8).unwrap();
        let mut reader = Reader::new(dir.path(), Position::default());
        let (got_out, got_err, missing) = read_all(&mut reader);
        prop_assert!(got_out == out && got_err == err && missing == 0);
        prop_assert_eq!(reader.position(), writer.position());
    }

    /// Readers begin anywhere and follow the writer over rotations.
    #[test]
    fn readers_begin_anywhere_and_follow(chunks in chunks(), start in any::<prop::sample::Index>()) {
        let dir = tempfile::tempdir().unwrap();
        let total: usize = chunks.iter().filter(|(is_err, _)| !is_err).map(|(_, bytes)| bytes.len()).sum();
        let start = start.index(total + 1) as u64;
        let mut late = Reader::new(dir.path(), Position { stdout: start, stderr: 0 });
        let mut writer = Writer::open(dir.path(), SMALL).unwrap();
        let (mut out, mut seen) = (Vec::new(), Vec::new());
        for (is_err, bytes) in &chunks {
            if *is_err {
                let at = writer.position().stderr;
                writer.append(Stream::Stderr, at, bytes, 0).unwrap();
            } else {
                writer.append(Stream::Stdout, out.len() as u64, bytes, 0).unwrap();
                out.extend_from_slice(bytes);
            }
            while let Some(item) = late.read().unwrap() {
                if let Item::Data { stream: Stream::Stdout, bytes, .. } = item {
                    seen.extend(bytes);
                }
            }
        }
        prop_assert!(seen == out[start as usize..]);
    }

    #[test]
    fn rubbish_is_no_log(bytes in prop::collection::vec(any::<u8>(), 0..3000), header in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let mut content = if header { format::segment_header(Position::default()).to_vec() } else { vec![] };
        content.extend(bytes);
        fs::write(dir.path().join(format::segment_name(0)), content).unwrap();
        read_all(&mut Reader::new(dir.path(), Position { stdout: u64::MAX, stderr: 0 }));
        Writer::open(dir.path(), SMALL).unwrap();
    }
}

#[test]
fn lost_output_is_a_gap_and_not_silence() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), SMALL).unwrap();
    writer.append(Stream::Stdout, 0, b"one", 0).unwrap();
    writer.skip_to(Stream::Stdout, 10);
    writer.append(Stream::Stdout, 10, b"two", 0).unwrap();
    let (out, _, missing) = read_all(&mut Reader::new(dir.path(), Position::default()));
    assert_eq!((out.as_slice(), missing), (&b"onetwo"[..], 7));
}

#[test]
fn old_segments_go_and_readers_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { segment: 1 << 10, segments: 2 };
    let mut writer = Writer::open(dir.path(), limits).unwrap();
    let mut slow = Reader::new(dir.path(), Position::default());
    writer.append(Stream::Stdout, 0, &[b'x'; 600], 0).unwrap();
    assert!(matches!(slow.read().unwrap(), Some(Item::Data { .. })));
    for at in 1..20u64 {
        writer.append(Stream::Stdout, at * 600, &[b'x'; 600], 0).unwrap();
    }
    assert!(fs::read_dir(dir.path()).unwrap().count() <= 2);
    let (mut data, mut missing) = (600, 0);
    while let Some(item) = slow.read().unwrap() {
        match item {
            Item::Data { bytes, .. } => data += bytes.len() as u64,
            Item::Gap { bytes, .. } => missing += bytes,
        }
    }
    assert_eq!(data + missing, 20 * 600);
    assert!(missing > 0);
}
