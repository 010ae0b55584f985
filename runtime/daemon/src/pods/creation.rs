//! A pod comes into being: checked, named, noted.

use crate::error::{ApiError, Result};
use crate::names;
use crate::network::{self, Wanted};
use crate::state::Shared;
use crate::store::{PodRecord, StoreError};
use vial_api::pod::MAX_CONTAINERS;
use vial_api::{CreatePod, ErrorKind, PodState};
use vial_sandbox::sizing::{self, VmSize};
use vial_sandbox::{PodId, SandboxPlan, Shared as SharedSandbox, now_ms, spec};

/// Memory of a pod when nobody says, in bytes: two containers' worth.
const DEFAULT_MEMORY: u64 = 2 * sizing::DEFAULT_MEMORY;
/// Containers that a pod takes at a time when nobody says. Each costs the VM two devices.
const DEFAULT_CONTAINERS: u8 = 8;

impl<'a> From<&'a CreatePod> for Wanted<'a> {
    fn from(request: &'a CreatePod) -> Self {
        let CreatePod { network, ports, dns, add_hosts, .. } = request;
        Self { mode: *network, ports, dns, add_hosts }
    }
}

/// What follows from the record alone.
impl PodRecord {
    /// Memory of all containers together, bytes.
    pub fn memory(&self) -> u64 {
        self.request.memory.unwrap_or(DEFAULT_MEMORY)
    }

    /// Processors of all containers together, thousandths.
    pub fn milli_cpus(&self) -> u32 {
        self.request.milli_cpus.unwrap_or(sizing::DEFAULT_MILLI_CPUS)
    }

    /// How many containers it takes at a time.
    pub fn max_containers(&self) -> u8 {
        self.request.containers.unwrap_or(DEFAULT_CONTAINERS)
    }

    /// Host name of all its containers.
    pub fn hostname(&self) -> String {
        // A name may hold what a host name may not.
        let of_name = || self.name.chars().map(|c| if c == '_' { '-' } else { c }).take(63).collect();
        self.request.hostname.clone().unwrap_or_else(of_name)
    }

    fn size(&self) -> Result<VmSize> {
        Ok(sizing::shared_vm_size(self.memory(), self.milli_cpus(), self.max_containers())
            .and_then(|size| size.fits(vial_vm::host_memory_mib()))
            .map_err(spec::SpecError::from)?)
    }

    /// The plan of its sandbox, the same at each of its starts, without a network.
    ///
    /// # Errors
    /// When its size is not possible.
    pub fn plan(&self) -> Result<(SandboxPlan, SharedSandbox)> {
        let plan = SandboxPlan {
            pod: self.id.clone(),
            hostname: self.hostname(),
            size: self.size()?,
            net: None,
            network: None,
            files: None,
        };
        Ok((plan, SharedSandbox { slots: self.max_containers(), memory: self.memory() }))
    }

    fn check(&self) -> Result<()> {
        let invalid = |why| ApiError::new(ErrorKind::InvalidArgument, why);
        names::check(&self.name).map_err(invalid)?;
        if !(1..=MAX_CONTAINERS).contains(&self.max_containers()) {
            return Err(invalid(format!(
                "{} containers in a pod are not possible: 1 to {MAX_CONTAINERS} are",
                self.max_containers()
            )));
        }
        spec::check_hostname(&self.hostname())?;
        self.size()?;
        network::check((&self.request).into())
    }
}

/// Makes a pod that somebody may start later.
///
/// # Errors
/// When the request makes no sense, or the name is in use.
pub async fn create(daemon: &Shared, request: CreatePod) -> Result<PodRecord> {
    let record = PodRecord {
        id: PodId::random()?,
        name: request.name.clone().unwrap_or_default(),
        request,
        state: PodState::Stopped,
        reason: None,
        created_ms: now_ms(),
        started_ms: None,
        boot: None,
        network: None,
    };
    let daemon = daemon.clone();
    tokio::task::spawn_blocking(move || {
        let wanted = record.request.name.clone();
        names::insert(wanted.as_deref(), |name| {
            let record = PodRecord { name, ..record.clone() };
            record.check()?;
            match daemon.store.insert_pod(&record) {
                Ok(()) => Ok(Some(record)),
                Err(StoreError::PodNameInUse(_)) if wanted.is_none() => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
    })
    .await?
}
