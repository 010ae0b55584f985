//! Devices that are plugged in later.

use super::{ConfigError, check_drive, check_interface, check_names, check_pmem};
use crate::api::config::{FileSource, IoEngine};
use crate::api::control::Plugged;
use crate::handles::HandleError;
use std::fs::File;

/// The name of what is to be plugged in.
pub fn name(device: &Plugged) -> &str {
    match device {
        Plugged::Drive(drive) => &drive.drive_id,
        Plugged::Interface(interface) => &interface.iface_id,
        Plugged::Pmem(pmem) => &pmem.id,
    }
}

/// Checks what is to be plugged in; the files that it names.
///
/// # Errors
/// It can't be, or can't be later than from the start.
pub fn pluggable(device: &Plugged) -> Result<Vec<&FileSource>, ConfigError> {
    let late = |is: bool, what| if is { Err(ConfigError::Late(what)) } else { Ok(()) };
    match device {
        Plugged::Drive(drive) => {
            check_names("drive_id", [&drive.drive_id].into_iter())?;
            check_drive(drive)?;
            // Memory that it could map would have to be there from the start too.
            late(drive.socket.is_some(), "a vhost-user back end")?;
            late(drive.is_root_device, "is_root_device")?;
            late(drive.io_threads != 0, "io_threads")?;
            late(drive.io_engine == Some(IoEngine::Async), "io_engine Async")?;
            Ok(drive.path_on_host.iter().chain(&drive.concat).collect())
        }
        Plugged::Interface(interface) => {
            check_names("iface_id", [&interface.iface_id].into_iter())?;
            check_interface(interface)?;
            late(interface.vhost_net.is_some(), "vhost_net")?;
            Ok([&interface.host_dev_name].into_iter().chain(&interface.more_queues).collect())
        }
        Plugged::Pmem(pmem) => {
            check_names("pmem id", [&pmem.id].into_iter())?;
            check_pmem(pmem)?;
            late(pmem.root_device, "root_device")?;
            Ok(vec![&pmem.path_on_host])
        }
    }
}

/// Checks what is to be plugged in, and puts its files in the order of the document, which names them by their place among those that
/// came.
///
/// # Errors
/// It can't be, or names other files than came.
pub fn plugged(device: &Plugged, said: u8, files: Vec<File>) -> Result<Vec<File>, HandleError> {
    let sources = pluggable(device)?;
    let came = files.len();
    let wrong = || HandleError::Descriptors { device: name(device).to_owned(), said, came };
    if usize::from(said) != came || sources.len() != came {
        return Err(wrong());
    }
    let mut files: Vec<Option<File>> = files.into_iter().map(Some).collect();
    let take = |source: &FileSource| match source {
        FileSource::Path(_) => Err(ConfigError::Late("a path").into()),
        FileSource::Fd { fd } => {
            let file =
                usize::try_from(*fd).ok().and_then(|place| files.get_mut(place)).and_then(Option::take);
            file.ok_or_else(wrong)
        }
    };
    sources.into_iter().map(take).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(device: Value, said: u8, came: usize) -> Result<usize, String> {
        let device = serde_json::from_value(device).map_err(|error| error.to_string())?;
        let files = (0..came).map(|_| tempfile::tempfile().unwrap()).collect();
        plugged(&device, said, files).map(|files| files.len()).map_err(|error| error.to_string())
    }

    #[test]
    fn documents_name_the_files_that_came_each_once() {
        let drive = |paths: Value| {
            let mut drive = json!({"drive_id": "a"});
            drive.as_object_mut().unwrap().extend(paths.as_object().unwrap().clone());
            json!({"drive": drive})
        };
        let fd = |fd: i32| json!({"fd": fd});
        let one = drive(json!({"path_on_host": fd(0)}));
        assert_eq!(check(one.clone(), 1, 1), Ok(1));
        let two = |a, b| drive(json!({"concat": [fd(a), fd(b)], "is_read_only": true}));
        assert_eq!(check(two(1, 0), 2, 2), Ok(2));
        assert_eq!(check(drive(json!({"is_removable": true})), 0, 0), Ok(0));
        for (device, said, came) in [
            (one.clone(), 1, 0),
            (one.clone(), 0, 1),
            (one.clone(), 2, 2),
            (one, 0, 0),
            (two(0, 0), 2, 2),
            (two(0, 2), 2, 2),
            (two(-1, 0), 2, 2),
        ] {
            let error = check(device, said, came).unwrap_err();
            assert!(error.contains("descriptors"), "{error}");
        }
        let interface = json!({"interface": {"iface_id": "e", "host_dev_name": {"fd": 0}}});
        assert_eq!(check(interface, 1, 1), Ok(1));
    }

    #[test]
    fn what_comes_late_can_not_have_everything() {
        for (field, value, why) in [
            ("is_root_device", json!(true), "is_root_device"),
            ("io_threads", json!(1), "io_threads"),
            ("io_engine", json!("Async"), "io_engine Async"),
            ("path_on_host", json!("/x"), "a path"),
            ("drive_id", json!(""), "is not a name"),
            ("frob", json!(1), "unknown field"),
        ] {
            let mut drive = json!({"drive_id": "a", "path_on_host": {"fd": 0}});
            drive[field] = value;
            let error = check(json!({"drive": drive}), 1, 1).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let interface =
            json!({"iface_id": "e", "host_dev_name": {"fd": 0}, "guest_mac": "01:00:00:00:00:00"});
        assert!(check(json!({"interface": interface}), 1, 1).unwrap_err().contains("not a unicast MAC"));
    }
}
