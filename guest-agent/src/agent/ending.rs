//! How containers come to their end: by the OOM killer, by the host's wish, or before they began.

use super::{Agent, wrong_state};
use crate::container::Container;
use crate::errors::internal;
use agent_protocol::{AgentError, ErrorKind, Event, Response};
use std::fs;
use std::rc::Rc;

impl Agent {
    pub(super) async fn discard(&self, container: &Container) {
        container.cgroup.kill();
        let _ = container.cgroup.emptied().await;
        let _ = container.cgroup.remove();
        let goodbye = container.root.borrow_mut().unmount();
        // Why the container could not be made is what the host hears.
        let _ = goodbye.said().await;
    }

    pub(super) async fn attend_oom(self: Rc<Self>, id: String, container: Rc<Container>) {
        tokio::select! {
            // A kernel without the memory controller has no such events.
            _ = container.cgroup.watch_oom(|kills| self.tell_ooms(&id, &container, kills)) => {}
            () = container.process.ended() => {}
        }
    }

    /// Tells the host of the kills that it does not know yet.
    pub(super) fn tell_ooms(&self, id: &str, container: &Container, kills: u64) {
        let news = kills.saturating_sub(container.oom_told.get());
        if news == 0 {
            return;
        }
        container.oom_told.set(kills);
        let victims = self.ooms.victims(id, news);
        let unnamed = (victims.len() as u64) < news;
        let known = victims.into_iter().map(Some).chain(unnamed.then_some(None));
        for victim in known {
            self.events.push(Event::Oom { container: id.to_owned(), victim });
        }
    }

    pub(super) async fn delete(&self, id: &str) -> Result<Response, AgentError> {
        let container = self.container(id)?;
        if container.deleting.replace(true) {
            return Err(wrong_state(format!("container {id:?} is being deleted")));
        }
        container.cgroup.kill();
        let execs: Vec<_> = container.execs.borrow().values().cloned().collect();
        for process in execs.iter().chain([&container.process]) {
            process.streams.abandon();
            // One that does not stand yet has nobody who notes its end.
            if process.pid.get() != 0 {
                process.ended().await;
            }
        }
        let _ = container.cgroup.emptied().await;
        let left = container.cgroup.remove();
        let goodbye = {
            let _alone = self.mounts.lock().await;
            container.root.borrow_mut().unmount()
        };
        if let Err(error) = goodbye.said().await {
            // It stays known, so that its disks are not taken for free ones; whoever holds them may end, and then this goes well.
            container.deleting.set(false);
            let message = format!("container {id:?} has ended, but {}; delete it again later", error.message);
            return Err(AgentError::new(ErrorKind::WrongState, message));
        }
        self.runtime.forget(id);
        self.ooms.forget(id);
        let _ = fs::remove_dir_all(&container.base);
        self.containers.borrow_mut().remove(id);
        left.map_err(internal("the container's cgroup can't be removed"))?;
        Ok(Response::Done)
    }
}
