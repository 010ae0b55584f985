//! A container as the store remembers it: one row.

use super::StoreError;
use rusqlite::Row;
use vial_api::{CreateContainer, Exit, State};
use vial_network::Lease;
use vial_sandbox::log::Position;
use vial_sandbox::{ContainerId, PodId, Slot};

/// The columns that [`Record::read`] reads.
pub const COLUMNS: &str = "id, pod, name, image, image_id, args, spec, request, stop_signal, memory, milli_cpus, stdin, \
    auto_remove, state, exit, created_ms, started_ms, finished_ms, boot, stopped, restarts, backoff_ms, base_stdout, base_stderr, \
    slot, (SELECT name FROM pods WHERE pods.id = containers.pod) AS pod_name, (SELECT network FROM pods WHERE pods.id = containers.pod) AS network";

/// A container as it is remembered.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its id.
    pub id: ContainerId,
    /// The pod that it lives in.
    pub pod: PodId,
    /// That pod's name; none: the container has it to itself.
    pub pod_name: Option<String>,
    /// The drives that it has in a pod of several, from before its start until they are free again.
    pub slot: Option<Slot>,
    /// Its name, unique.
    pub name: String,
    /// The image as it was asked for.
    pub image: String,
    /// The image's id.
    pub image_id: String,
    /// Entrypoint and arguments.
    pub args: Vec<String>,
    /// The OCI runtime spec.
    pub spec: serde_json::Value,
    /// What it was asked for with; later starts go by it.
    pub request: CreateContainer,
    /// Signal that asks it to stop.
    pub stop_signal: i32,
    /// Bytes.
    pub memory: u64,
    /// Thousandths of a processor.
    pub milli_cpus: u32,
    /// Whether its standard input is open.
    pub stdin: bool,
    /// Whether it goes when it has ended.
    pub auto_remove: bool,
    /// Where it is in its life.
    pub state: State,
    /// How it ended.
    pub exit: Option<Exit>,
    /// Milliseconds since the epoch.
    pub created_ms: u64,
    /// Milliseconds since the epoch.
    pub started_ms: Option<u64>,
    /// Milliseconds since the epoch.
    pub finished_ms: Option<u64>,
    /// The host's boot id at its newest start.
    pub boot: Option<String>,
    /// Whether a person stopped it, so that its restart policy rests.
    pub stopped: bool,
    /// How often its restart policy has started it since a person did.
    pub restarts: u32,
    /// What its restart policy waited for before the newest of these starts.
    pub backoff_ms: u64,
    /// Where in its log the output of the newest start begins.
    pub base: Position,
    /// The pod's network, of its newest start.
    pub network: Option<Lease>,
}

impl Record {
    /// One that was just asked for and has never been started.
    pub fn is_new(&self) -> bool {
        self.started_ms.is_none()
    }

    /// From a row with [`COLUMNS`].
    pub fn read(row: &Row<'_>) -> Result<Self, StoreError> {
        fn corrupt(column: &'static str, text: &str) -> StoreError {
            StoreError::Corrupt { column, text: text.to_owned() }
        }
        fn json<T: serde::de::DeserializeOwned>(column: &'static str, text: &str) -> Result<T, StoreError> {
            serde_json::from_str(text).map_err(|_| corrupt(column, text))
        }
        let text = |column: &'static str| row.get::<_, String>(column);
        let (id, pod, state) = (text("id")?, text("pod")?, text("state")?);
        let exit: Option<String> = row.get("exit")?;
        let request: Option<String> = row.get("request")?;
        let network: Option<String> = row.get("network")?;
        let image = text("image")?;
        let (stdin, auto_remove) = (row.get("stdin")?, row.get("auto_remove")?);
        // A row of the first version has none; its spec says the rest.
        let none =
            || CreateContainer { image: image.clone(), stdin, auto_remove, ..CreateContainer::default() };
        Ok(Self {
            id: ContainerId::parse(&id).ok_or_else(|| corrupt("id", &id))?,
            pod: PodId::parse(&pod).ok_or_else(|| corrupt("pod", &pod))?,
            pod_name: row.get("pod_name")?,
            slot: row.get::<_, Option<u8>>("slot")?.map(Slot),
            name: text("name")?,
            image_id: text("image_id")?,
            args: json("args", &text("args")?)?,
            spec: json("spec", &text("spec")?)?,
            request: request.map_or_else(|| Ok(none()), |text| json("request", &text))?,
            stop_signal: row.get("stop_signal")?,
            memory: row.get("memory")?,
            milli_cpus: row.get("milli_cpus")?,
            stdin,
            auto_remove,
            state: State::parse(&state).ok_or_else(|| corrupt("state", &state))?,
            exit: exit.map(|text| json("exit", &text)).transpose()?,
            created_ms: row.get("created_ms")?,
            started_ms: row.get("started_ms")?,
            finished_ms: row.get("finished_ms")?,
            boot: row.get("boot")?,
            stopped: row.get("stopped")?,
            restarts: row.get("restarts")?,
            backoff_ms: row.get("backoff_ms")?,
            base: Position { stdout: row.get("base_stdout")?, stderr: row.get("base_stderr")? },
            network: network.map(|text| json("network", &text)).transpose()?,
            image,
        })
    }
}
