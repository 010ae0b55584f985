//! The loops that bring about what is declared. Each looks, does what its pure function says, and sleeps until something is written or a
//! time comes that the function named.

use super::facts;
use crate::state::Shared;
use std::sync::Arc;
use std::time::Duration;
use vial_orchestrator::engine::Engine;
use vial_orchestrator::kinds::Kind;
use vial_orchestrator::node::machine;
use vial_orchestrator::status::ApiError;
use vial_orchestrator::store::Stored;

/// A store that does not take writes (its disk is full) is tried again after that.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the machine is looked at. What has not changed is not written.
const LOOK: Duration = Duration::from_secs(60);

/// Starts them. They end with the process: whatever they were about to do, their successors see again.
pub fn start(daemon: &Shared, engine: &Engine, name: &str) {
    tokio::spawn(controllers(engine.clone()));
    tokio::spawn(super::pods::Node::new(daemon, engine, name).run());
    tokio::spawn(node(daemon.clone(), engine.clone(), name.to_owned()));
}

async fn controllers(engine: Engine) {
    let mut changes = engine.store().changes();
    loop {
        // Before the look: what is written during it wakes again.
        changes.borrow_and_update();
        let looking = engine.clone();
        let looked = tokio::task::spawn_blocking(move || looking.control()).await;
        let wait = match looked {
            Ok(Ok((_, plan))) => plan.again.map(|at| (at - engine.time()).to_std().unwrap_or_default()),
            Ok(Err(error)) => failed("the controllers", &error),
            Err(error) => failed("the controllers", &error),
        };
        tokio::select! {
            // The sender is in the store, of which this has a clone.
            _ = changes.changed() => {}
            () = sleep(wait) => {}
        }
    }
}

/// For ever, if nobody says how long.
pub async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

/// Says that somebody can't work, and how long to wait before they try again.
pub fn failed(who: &str, error: &dyn std::fmt::Display) -> Option<Duration> {
    tracing::error!(%error, "{who} can't do their work now");
    Some(PATIENCE)
}

/// Says once that there is no room for objects, and once that there is again.
fn tell_crowded(is: bool, was: bool) -> bool {
    match (was, is) {
        (false, true) => tracing::warn!(
            "what is declared takes all memory that is for it: nothing new is taken, not even replicas, until some of it is deleted"
        ),
        (true, false) => tracing::info!("there is memory for declared objects again"),
        _ => {}
    }
    is
}

/// Keeps the Node true.
async fn node(daemon: Shared, engine: Engine, name: String) {
    let Some(kind) = Kind::by_path("", "v1", "nodes") else { return };
    let mut changes = engine.store().changes();
    let mut was_crowded = false;
    loop {
        // Before the look: what is written during it is looked at again.
        changes.borrow_and_update();
        was_crowded = tell_crowded(engine.store().is_crowded(), was_crowded);
        let (own, looking, name) = (daemon.clone(), engine.clone(), name.clone());
        let looked = tokio::task::spawn_blocking(move || -> Result<_, ApiError> {
            let facts = facts::of(&own, &name);
            let nodes = looking.store().list(kind, "").0;
            let actions = machine::plan(&facts, &nodes, looking.time());
            actions.iter().try_for_each(|action| looking.act_or_tell(action).map(drop))?;
            Ok(versions(&nodes))
        });
        let (seen, wait) = match looked.await {
            Ok(Ok(seen)) => (Some(seen), LOOK),
            Ok(Err(error)) => (None, failed("the keeper of the node", &error).unwrap_or(PATIENCE)),
            Err(_) => return,
        };
        let others_write = async {
            // What was made or told just now is looked at once more, and what a client made of it; other objects are no news here.
            while seen.is_none() || seen == Some(versions(&engine.store().list(kind, "").0)) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = others_write => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Of all nodes, in their order.
fn versions(nodes: &[Arc<Stored>]) -> Vec<u64> {
    nodes.iter().map(|node| node.version).collect()
}
