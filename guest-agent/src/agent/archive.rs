//! Files into a container and out of it: a helper of the agent's own, with an exec's streams and an exec's end.
//!
//! The helper sees the container's files as the container does, mounts included, but through a descriptor of its root out of which
//! nothing leads (`vial-archive`); it runs none of the container's programs. It lives in the container's cgroup: what it uses counts
//! there, and it ends with the container.

use super::{Agent, Stage, wrong_state};
use crate::container::{Process, check_id};
use crate::errors::{internal, invalid};
use crate::streams::{self, ProcessEnds, Pumps, Source, Wish};
use crate::sys::process::fork;
use agent_protocol::{AgentError, GetArchive, PutArchive, Response};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::rc::Rc;
use tokio::task::spawn_local;
use vial_archive::{ArchiveError, Place, Root, Unpack};

/// Bytes that are moved at a time.
const BUFFER: usize = 64 << 10;

/// What a helper does.
pub enum Job {
    Get(GetArchive),
    Put(PutArchive),
}

impl Agent {
    pub(super) fn archive(self: &Rc<Self>, job: Job) -> Result<Response, AgentError> {
        let (id, exec, path) = match &job {
            Job::Get(get) => (get.container.clone(), get.exec.clone(), &get.path),
            Job::Put(put) => (put.container.clone(), put.exec.clone(), &put.path),
        };
        if path.contains('\0') {
            return Err(invalid("the path holds a NUL byte"));
        }
        check_id(&exec)?;
        let container = self.container(&id)?;
        if container.process.stage.get() != Stage::Running || container.deleting.get() {
            return Err(wrong_state(format!("container {id:?} is not running")));
        }
        self.make_room(&container)?;
        if container.execs.borrow().contains_key(&exec) {
            return Err(super::exists("an exec", &exec));
        }
        let view = format!("/proc/{}/root", container.process.pid.get());
        let root = Root::open(Path::new(&view)).map_err(internal("the container's root can't be opened"))?;
        let wish = Wish { stdin: matches!(job, Job::Put(_)), terminal: None, uid: 0, gid: 0 };
        let made = streams::make(&wish).map_err(internal("the streams can't be made"))?;
        let (streams, ProcessEnds::Pipes([stdin, stdout, stderr]), Source::Pipes(pumps)) = made else {
            return Err(invalid("files need no terminal"));
        };
        let process = Process::new(streams);
        process.oom_before.set(container.cgroup.oom_kills());
        let launching = self.reaper.launching();
        let keep = [stdin.as_raw_fd(), stdout.as_raw_fd(), stderr.as_raw_fd(), root.as_raw_fd()];
        let pid = fork(&keep, || {
            let done = container.cgroup.join().map_err(ArchiveError::Stream).and_then(|()| match job {
                Job::Get(get) => give(&root, &get, stdout.into()),
                Job::Put(put) => take(&root, &put, stdin.into()),
            });
            let Err(error) = done else { return 0 };
            // The host shows it to a person.
            let _ = File::from(stderr).write_all(error.to_string().as_bytes());
            1
        })
        .map_err(internal("a helper can't be started"))?;
        let ended = self.reaper.ended(pid);
        drop(launching);
        process.pid.set(pid);
        process.reach(Stage::Running);
        container.execs.borrow_mut().insert(exec.clone(), Rc::clone(&process));
        let pumps = Pumps::Pipes(pumps);
        spawn_local(Rc::clone(self).attend(id, Some(exec), container, process, ended, pumps));
        Ok(Response::Started { pid })
    }
}

fn give(root: &Root, get: &GetArchive, out: File) -> vial_archive::Result<()> {
    let (place, out) = (Place::parse(OsStr::new(&get.path)), BufWriter::with_capacity(BUFFER, out));
    let out = match &get.name {
        None => root.pack(&place, get.follow, out)?,
        Some(name) => root.pack_as(&place, get.follow, Path::new(name), out)?,
    };
    out.into_inner().map(drop).map_err(|error| ArchiveError::Stream(error.into_error()))
}

fn take(root: &Root, put: &PutArchive, input: File) -> vial_archive::Result<()> {
    // Any node may be made in a container; its cgroup says which can be opened.
    let how = Unpack { stream: put.stream, contents: put.contents, owners: put.owners, devices: true };
    root.unpack(&Place::parse(OsStr::new(&put.path)), how, BufReader::with_capacity(BUFFER, input)).map(drop)
}
