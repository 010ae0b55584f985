use super::*;
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use tar::{Builder, EntryType, Header};

fn place(path: &Path, end: &str) -> Place {
    let mut text = path.as_os_str().to_owned();
    text.push(end);
    Place::parse(&text)
}

fn host() -> Root {
    Root::open(Path::new("/")).unwrap()
}

fn copy(from: &Place, to: &Place) -> Result<Copied> {
    let tar = host().pack(from, false, Vec::new())?;
    host().unpack(to, Unpack { contents: from.is_contents, ..Unpack::default() }, tar.as_slice())
}

/// A folder `src` with something of each kind, and an empty folder `dst`.
fn folders() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (src, dst) = (dir.path().join("src"), dir.path().join("dst"));
    fs::create_dir_all(src.join("sub/deep")).unwrap();
    fs::create_dir(&dst).unwrap();
    fs::write(src.join("file"), "text").unwrap();
    fs::set_permissions(src.join("file"), fs::Permissions::from_mode(0o4750)).unwrap();
    fs::write(src.join("sub").join("n".repeat(200)), vec![7; 100_000]).unwrap();
    symlink("/etc/hostname", src.join("link")).unwrap();
    fs::set_permissions(src.join("sub"), fs::Permissions::from_mode(0o500)).unwrap();
    (dir, src, dst)
}

#[test]
fn a_folder_goes_into_a_folder_or_becomes_it_by_the_rules_of_cp() {
    let (_dir, src, dst) = folders();
    copy(&place(&src, ""), &place(&dst, "")).unwrap();
    let made = dst.join("src");
    assert_eq!(fs::read(made.join("sub").join("n".repeat(200))).unwrap(), vec![7; 100_000]);
    assert_eq!(fs::read_link(made.join("link")).unwrap(), Path::new("/etc/hostname"));
    assert_eq!(
        fs::metadata(made.join("file")).unwrap().permissions().mode() & 0o7777,
        0o750,
        "no set-user-ID"
    );
    assert_eq!(fs::metadata(made.join("sub")).unwrap().permissions().mode() & 0o7777, 0o500);
    let time =
        |path: &Path| fs::metadata(path).unwrap().modified().unwrap().duration_since(std::time::UNIX_EPOCH);
    assert_eq!(time(&made.join("sub")).unwrap().as_secs(), time(&src.join("sub")).unwrap().as_secs());

    copy(&place(&src, "/."), &place(&dst, "")).unwrap();
    assert!(dst.join("file").exists());
    copy(&place(&src, ""), &place(&dst.join("new"), "/")).unwrap();
    assert!(dst.join("new/file").exists());
    copy(&place(&src, "/."), &place(&dst.join("newer"), "")).unwrap();
    assert!(dst.join("newer/file").exists());
    assert!(copy(&place(&src, ""), &place(&dst.join("file"), "")).is_err(), "a folder onto a file");
}

#[test]
fn a_file_is_put_into_renamed_or_replaced() {
    let (_dir, src, dst) = folders();
    let file = place(&src.join("file"), "");
    copy(&file, &place(&dst, "")).unwrap();
    copy(&file, &place(&dst.join("other"), "")).unwrap();
    assert_eq!(fs::read_to_string(dst.join("file")).unwrap(), "text");
    fs::write(src.join("file"), "new").unwrap();
    copy(&file, &place(&dst.join("other"), "")).unwrap();
    assert_eq!(fs::read_to_string(dst.join("other")).unwrap(), "new");
    assert!(copy(&file, &place(&dst.join("absent"), "/")).is_err());
    assert!(copy(&file, &place(&dst.join("absent/x"), "")).is_err());
    assert!(copy(&place(&src.join("absent"), ""), &place(&dst, "")).is_err());
    assert!(copy(&place(&src.join("file"), "/"), &place(&dst, "")).is_err());
}

#[test]
fn what_is_neither_file_nor_folder_is_not_replaced_by_a_copy_onto_it() {
    let (_dir, src, dst) = folders();
    let pipe = dst.join("pipe");
    rustix::fs::mknodat(CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    symlink("pipe", dst.join("way")).unwrap();
    for name in ["pipe", "way"] {
        let refused = copy(&place(&src.join("file"), ""), &place(&dst.join(name), "")).unwrap_err();
        assert!(refused.to_string().contains("neither a file nor a folder"), "{refused}");
    }
    assert!(std::os::unix::fs::FileTypeExt::is_fifo(&fs::metadata(&pipe).unwrap().file_type()));
    assert!(dst.join("way").is_symlink());
}

/// As on a system whose /usr is merged.
#[test]
fn a_folder_takes_no_links_or_files_place() {
    let (dir, _, dst) = folders();
    fs::create_dir_all(dst.join("usr/lib64")).unwrap();
    fs::write(dst.join("usr/lib64/loader"), "loads").unwrap();
    symlink("usr/lib64", dst.join("lib64")).unwrap();
    fs::write(dst.join("plain"), "kept").unwrap();
    let src = dir.path().join("new");
    for name in ["lib64", "plain"] {
        fs::create_dir_all(src.join(name)).unwrap();
        fs::write(src.join(name).join("mine"), "x").unwrap();
    }
    let refused = |from: &Place, to: &Place| copy(from, to).unwrap_err().to_string();
    let into = place(&dst, "/");
    let told = refused(&place(&src.join("lib64"), ""), &into);
    assert!(told.contains("lib64") && told.contains("symbolic link"), "{told}");
    let told = refused(&place(&src.join("plain"), ""), &into);
    assert!(told.contains("plain") && told.contains("no folder"), "{told}");
    refused(&place(&src, "/."), &into);
    let stream = tar(&[(EntryType::Directory, "lib64", "")]);
    let how = Unpack { stream: true, ..Unpack::default() };
    assert!(matches!(
        host().unpack(&into, how, stream.as_slice()),
        Err(ArchiveError::Taken { by: Taken::Link, .. })
    ));
    assert_eq!(fs::read_link(dst.join("lib64")).unwrap(), Path::new("usr/lib64"));
    assert_eq!(fs::read_to_string(dst.join("lib64/loader")).unwrap(), "loads");
    assert_eq!(fs::read_to_string(dst.join("plain")).unwrap(), "kept");
    // Named as the destination it is a folder like any other, and what only passes through it goes to where it points.
    copy(&place(&src.join("lib64"), "/."), &place(&dst.join("lib64"), "")).unwrap();
    assert!(dst.join("usr/lib64/mine").exists());
    let stream = tar(&[(EntryType::Regular, "lib64/other", "y")]);
    host().unpack(&into, how, stream.as_slice()).unwrap();
    assert!(dst.join("usr/lib64/other").exists());
    // And no file a folder's.
    fs::create_dir(dst.join("file")).unwrap();
    fs::write(src.join("file"), "text").unwrap();
    let told = refused(&place(&src.join("file"), ""), &into);
    assert!(told.contains("it is a folder"), "{told}");
}

#[test]
fn a_link_is_copied_as_such_unless_it_is_to_be_followed() {
    let (_dir, src, dst) = folders();
    symlink("file", src.join("alias")).unwrap();
    let alias = place(&src.join("alias"), "");
    copy(&alias, &place(&dst, "")).unwrap();
    assert!(dst.join("alias").is_symlink());
    let renamed = host().pack_as(&alias, true, Path::new("a/b"), Vec::new()).unwrap();
    assert!(renamed.starts_with(b"a/b"));
    let tar = host().pack(&alias, true, Vec::new()).unwrap();
    host().unpack(&place(&dst, ""), Unpack::default(), tar.as_slice()).unwrap();
    assert_eq!(fs::read_to_string(dst.join("alias")).unwrap(), "text");
    assert!(!dst.join("alias").is_symlink());
}

fn tar(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (kind, name, content) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        // Written by hand: the library refuses such names.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        let data = if *kind == EntryType::Regular { content.as_bytes() } else { b"" };
        if *kind != EntryType::Regular {
            header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
        }
        header.set_size(data.len() as u64);
        header.set_cksum();
        tar.append(&header, data).unwrap();
    }
    tar.into_inner().unwrap()
}

#[test]
fn no_stream_leads_out_of_its_destination() {
    use EntryType::{Directory, Link, Regular, Symlink};
    let (dir, _, dst) = folders();
    let secret = dir.path().join("secret");
    fs::write(&secret, "kept").unwrap();
    let into = |entries: &[(EntryType, &str, &str)]| {
        let how = Unpack { stream: true, ..Unpack::default() };
        host().unpack(&place(&dst, ""), how, tar(entries).as_slice())
    };
    assert!(into(&[(Regular, "../secret", "lost")]).is_err());
    assert!(into(&[(Regular, "a/../../secret", "lost")]).is_err());
    // Absolute names are names below.
    into(&[(Regular, "/absolute", "here")]).unwrap();
    assert!(dst.join("absolute").exists());
    // A link that points out, and then a file through it.
    let outside = dir.path().to_str().unwrap();
    let through = [(Symlink, "out", outside), (Regular, "out/secret", "lost")];
    // Inside the destination there is no such folder, so one is made below it or it fails: nothing outside changes.
    let _ = into(&through);
    let _ = into(&[(Symlink, "up", "../"), (Regular, "up/secret", "lost")]);
    let _ = into(&[(Symlink, "over", secret.to_str().unwrap()), (Regular, "over", "mine")]);
    let _ = into(&[
        (Link, "hard", "../secret"),
        (Link, "hard2", secret.to_str().unwrap()),
        (Regular, "hard2", "lost"),
    ]);
    let _ = into(&[(Symlink, "d", outside), (Directory, "d", ""), (Regular, "d/secret", "lost")]);
    assert_eq!(fs::read_to_string(&secret).unwrap(), "kept");
    assert_eq!(fs::read_to_string(dst.join("over")).unwrap(), "mine", "the link was replaced, not followed");
}

#[test]
fn a_hostile_container_can_not_lead_a_copy_out_of_its_root() {
    let (dir, src, dst) = folders();
    fs::write(dir.path().join("secret"), "kept").unwrap();
    symlink("../secret", src.join("relative")).unwrap();
    symlink(dir.path().join("secret"), src.join("absolute")).unwrap();
    symlink("..", src.join("up")).unwrap();
    let root = Root::open(&src).unwrap();
    for name in ["/relative", "/absolute", "/up/../secret", "../secret"] {
        let from = Place::parse(OsStr::new(name));
        assert!(root.pack(&from, true, Vec::new()).is_err(), "{name}");
    }
    // And into it: through a link that points out.
    let tar = host().pack(&place(&dir.path().join("secret"), ""), false, Vec::new()).unwrap();
    root.unpack(&Place::parse(OsStr::new("/up")), Unpack::default(), tar.as_slice()).unwrap();
    assert!(src.join("secret").exists(), "upwards from the root is the root");
    assert!(!dst.join("secret").exists());
}

#[test]
fn a_stream_that_ends_in_a_file_leaves_the_one_that_was_there() {
    let (_dir, src, dst) = folders();
    fs::write(src.join("file"), vec![7; 100_000]).unwrap();
    let mut cut = host().pack(&place(&src.join("file"), ""), false, Vec::new()).unwrap();
    cut.truncate(50_000);
    for old in [None, Some("old")] {
        if let Some(old) = old {
            fs::write(dst.join("file"), old).unwrap();
        }
        assert!(host().unpack(&place(&dst, ""), Unpack::default(), cut.as_slice()).is_err());
        assert!(fs::read_to_string(dst.join("file")).ok().as_deref() == old);
        assert_eq!(fs::read_dir(&dst).unwrap().count(), usize::from(old.is_some()));
    }
}

#[test]
fn devices_are_left_out_unless_wanted() {
    let (_dir, _, dst) = folders();
    let how = Unpack { stream: true, ..Unpack::default() };
    let copied =
        host().unpack(&place(&dst, ""), how, tar(&[(EntryType::Char, "null", "")]).as_slice()).unwrap();
    assert_eq!((copied.made, copied.left_out), (0, 1));
    assert!(!dst.join("null").exists());
}

#[test]
fn a_name_without_end_is_refused_before_it_is_read() {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(u64::from(u32::MAX));
    header.set_cksum();
    let (_dir, _, dst) = folders();
    let input = header.as_bytes().to_vec();
    assert!(matches!(
        host().unpack(&place(&dst, ""), Unpack::default(), input.as_slice()),
        Err(ArchiveError::Bad(_))
    ));
}

#[test]
fn places_are_read_as_cp_reads_them() {
    let read = |text: &str| {
        let place = Place::parse(OsStr::new(text));
        (place.path.to_str().unwrap().to_owned(), place.is_folder, place.is_contents)
    };
    assert_eq!(read("/a/b"), ("/a/b".into(), false, false));
    assert_eq!(read("/a/b/"), ("/a/b/".into(), true, false));
    assert_eq!(read("/a/."), ("/a/".into(), true, true));
    assert_eq!(read("."), ("".into(), true, true));
    assert_eq!(read("/"), ("/".into(), true, true));
}

proptest! {
    #[test]
    fn rubbish_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..2000), at in 0usize..1500, byte in any::<u8>()) {
        let dir = tempfile::tempdir().unwrap();
        let how = Unpack { stream: true, ..Unpack::default() };
        let _ = host().unpack(&place(dir.path(), ""), how, bytes.as_slice());
        let mut damaged = tar(&[(EntryType::Regular, "a/b", "text"), (EntryType::Symlink, "c", "a")]);
        damaged[at] = byte;
        let _ = host().unpack(&place(dir.path(), ""), how, damaged.as_slice());
    }
}
