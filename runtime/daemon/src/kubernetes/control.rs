//! The loops that bring about what is declared. Each looks, does what its pure function says, and sleeps until something is written or a
//! time comes that the function named.

use super::facts;
use crate::state::Shared;
use std::time::Duration;
use vial_orchestrator::engine::Engine;
use vial_orchestrator::kinds::Kind;
use vial_orchestrator::node::machine;
use vial_orchestrator::status::ApiError;

/// A store that does not take writes (its disk is full) is tried again after that.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the machine is looked at. What has not changed is not written.
const LOOK: Duration = Duration::from_secs(60);

/// Starts them. They end with the process: whatever they were about to do, their successors see again.
pub fn start(daemon: &Shared, engine: &Engine) {
    tokio::spawn(controllers(engine.clone()));
    tokio::spawn(super::pods::Node::new(daemon, engine).run());
    tokio::spawn(node(daemon.clone(), engine.clone()));
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

/// Keeps the Node true.
async fn node(daemon: Shared, engine: Engine) {
    let Some(kind) = Kind::by_path("", "v1", "nodes") else { return };
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let (own, looking) = (daemon.clone(), engine.clone());
        let looked = tokio::task::spawn_blocking(move || -> Result<bool, ApiError> {
            let facts = facts::of(&own);
            let actions = machine::plan(&facts, &looking.store().list(kind, "").0, looking.time());
            actions.iter().try_for_each(|action| looking.act(action))?;
            Ok(!actions.is_empty())
        });
        match looked.await {
            // Made, and not told yet; or told, and to be seen so.
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => {
                looks.tick().await;
            }
            Ok(Err(error)) => {
                failed("the keeper of the node", &error);
                looks.tick().await;
            }
            Err(_) => return,
        }
    }
}
