//! Pods that were made by name, as the store remembers them.

use super::{Store, StoreError};
use rusqlite::{Row, Transaction, params};
use vial_api::{CreatePod, PodState};
use vial_network::Lease;
use vial_sandbox::PodId;

/// A pod as it is remembered.
#[derive(Debug, Clone, PartialEq)]
pub struct PodRecord {
    /// Its id.
    pub id: PodId,
    /// Its name, unique among pods.
    pub name: String,
    /// What it was asked for with; every start goes by it.
    pub request: CreatePod,
    /// Where it is in its life.
    pub state: PodState,
    /// Why it is stopped, when that was nobody's wish.
    pub reason: Option<String>,
    /// Milliseconds since the epoch.
    pub created_ms: u64,
    /// Milliseconds since the epoch.
    pub started_ms: Option<u64>,
    /// The host's boot id at its newest start.
    pub boot: Option<String>,
    /// Its network, of its newest start.
    pub network: Option<Lease>,
}

const COLUMNS: &str = "id, name, request, state, reason, created_ms, started_ms, boot, network";

impl PodRecord {
    fn read(row: &Row<'_>) -> Result<Self, StoreError> {
        fn corrupt(column: &'static str, text: &str) -> StoreError {
            StoreError::Corrupt { column, text: text.to_owned() }
        }
        fn json<T: serde::de::DeserializeOwned>(column: &'static str, text: &str) -> Result<T, StoreError> {
            serde_json::from_str(text).map_err(|_| corrupt(column, text))
        }
        let text = |column: &'static str| row.get::<_, String>(column);
        let (id, state) = (text("id")?, text("state")?);
        let network: Option<String> = row.get("network")?;
        Ok(Self {
            id: PodId::parse(&id).ok_or_else(|| corrupt("id", &id))?,
            name: text("name")?,
            request: json("request", &text("request")?)?,
            state: PodState::parse(&state).ok_or_else(|| corrupt("state", &state))?,
            reason: row.get("reason")?,
            created_ms: row.get("created_ms")?,
            started_ms: row.get("started_ms")?,
            boot: row.get("boot")?,
            network: network.map(|text| json("network", &text)).transpose()?,
        })
    }
}

impl Store {
    /// Notes a new pod, stopped.
    ///
    /// # Errors
    /// [`StoreError::PodNameInUse`], or when SQLite can't.
    pub fn insert_pod(&self, pod: &PodRecord) -> Result<(), StoreError> {
        let request = serde_json::to_string(&pod.request)
            .map_err(|error| StoreError::Corrupt { column: "request", text: error.to_string() })?;
        let inserted = self.write(|transaction| {
            Ok(transaction.execute(
                "INSERT INTO pods (id, vm, created_ms, name, request, state) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    pod.id.as_str(),
                    pod.id.vm_name(),
                    pod.created_ms,
                    pod.name,
                    request,
                    pod.state.as_str()
                ],
            )?)
        });
        match inserted {
            Err(StoreError::Sqlite(rusqlite::Error::SqliteFailure(error, Some(text))))
                if error.code == rusqlite::ErrorCode::ConstraintViolation && text.contains("pods.name") =>
            {
                Err(StoreError::PodNameInUse(pod.name.clone()))
            }
            other => other.map(drop),
        }
    }

    /// Notes that a stopped pod is being started; says whether it was stopped.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn set_pod_starting(&self, id: &PodId, boot: &str) -> Result<bool, StoreError> {
        self.write(|transaction| {
        let changed = transaction.execute(
            "UPDATE pods SET state = 'starting', boot = ?2, reason = NULL WHERE id = ?1 AND state = 'stopped'",
            params![id.as_str(), boot],
        )?;
        if changed == 1 {
            // Of an earlier VM.
            transaction.execute("UPDATE containers SET slot = NULL WHERE pod = ?1", params![id.as_str()])?;
        }
        Ok(changed == 1)
        })
    }

    /// Notes that a starting pod's VM is ready for containers.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn set_pod_running(&self, id: &PodId, started_ms: u64) -> Result<(), StoreError> {
        self.must(|transaction| {
            let change =
                "UPDATE pods SET state = 'running', started_ms = ?2 WHERE id = ?1 AND state = 'starting'";
            Ok(transaction.execute(change, params![id.as_str(), started_ms]).map(drop)?)
        })
    }

    /// Notes that a pod has no VM any more, and why if that was nobody's wish. With the VM went all slots. When there is no room for it, it is
    /// kept aside.
    ///
    /// # Errors
    /// When SQLite can't, and it can't be kept aside either; what this store answers is right all the same.
    pub fn set_pod_stopped(&self, id: &PodId, reason: Option<&str>) -> Result<(), StoreError> {
        let noted = self.must(|transaction| note_pod_stopped(transaction, id.as_str(), reason));
        noted.or_else(|error| self.keep(error, |unnoted| unnoted.pod_stopped(id, reason)))
    }

    /// Notes that a pod is being removed, so that a killed removal is finished at the next start: no container finds it any more.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn set_pod_removing(&self, id: &PodId) -> Result<(), StoreError> {
        self.must(|transaction| {
            let change = "UPDATE pods SET state = 'removing' WHERE id = ?1";
            Ok(transaction.execute(change, params![id.as_str()]).map(drop)?)
        })
    }

    /// Forgets a pod. Its VM and its containers must be gone already.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn delete_pod(&self, id: &PodId) -> Result<(), StoreError> {
        self.must(|transaction| {
            let change = "DELETE FROM pods WHERE id = ?1 AND id NOT IN (SELECT pod FROM containers)";
            Ok(transaction.execute(change, params![id.as_str()]).map(drop)?)
        })
    }

    /// All pods that were made by name, newest first.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn pods(&self) -> Result<Vec<PodRecord>, StoreError> {
        let mut inner = self.lock();
        self.catch_up(&mut inner);
        let mut statement = inner.connection.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM pods WHERE name IS NOT NULL ORDER BY created_ms DESC, rowid DESC"
        ))?;
        let mut rows = statement.query([])?;
        let mut pods = Vec::new();
        while let Some(row) = rows.next()? {
            let mut pod = PodRecord::read(row)?;
            inner.unnoted.show_pod(&mut pod);
            pods.push(pod);
        }
        Ok(pods)
    }

    /// One of them.
    ///
    /// # Errors
    /// When SQLite can't.
    pub fn pod(&self, id: &PodId) -> Result<Option<PodRecord>, StoreError> {
        let mut inner = self.lock();
        self.catch_up(&mut inner);
        let one = format!("SELECT {COLUMNS} FROM pods WHERE id = ?1 AND name IS NOT NULL");
        let mut statement = inner.connection.prepare_cached(&one)?;
        let mut rows = statement.query(params![id.as_str()])?;
        let mut pod = rows.next()?.map(PodRecord::read).transpose()?;
        pod.iter_mut().for_each(|pod| inner.unnoted.show_pod(pod));
        Ok(pod)
    }
}

/// A pod has no VM any more.
pub(super) fn note_pod_stopped(
    transaction: &Transaction<'_>,
    id: &str,
    reason: Option<&str>,
) -> Result<(), StoreError> {
    transaction.execute(
        "UPDATE pods SET state = 'stopped', reason = ?2 WHERE id = ?1 AND state IN ('starting', 'running')",
        params![id, reason],
    )?;
    transaction.execute("UPDATE containers SET slot = NULL WHERE pod = ?1", params![id])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::new_record;
    use super::*;
    use vial_api::State;

    fn new_pod(name: &str) -> PodRecord {
        PodRecord {
            id: PodId::random().unwrap(),
            name: name.into(),
            request: CreatePod { containers: Some(3), ..CreatePod::default() },
            state: PodState::Stopped,
            reason: None,
            created_ms: 4,
            started_ms: None,
            boot: None,
            network: None,
        }
    }

    #[test]
    fn a_pod_outlives_its_containers_and_no_longer_than_its_removal() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("vial.db")).unwrap();
        let pod = new_pod("two");
        store.insert_pod(&pod).unwrap();
        assert_eq!(store.pods().unwrap(), std::slice::from_ref(&pod));
        assert!(
            matches!(store.insert_pod(&new_pod("two")), Err(StoreError::PodNameInUse(name)) if name == "two")
        );
        assert!(store.set_pod_starting(&pod.id, "b1").unwrap());
        assert!(!store.set_pod_starting(&pod.id, "b1").unwrap(), "only one starts it");
        store.set_pod_running(&pod.id, 6).unwrap();

        let member = |name: &str| super::super::Record {
            pod: pod.id.clone(),
            pod_name: Some("two".into()),
            ..new_record(name)
        };
        let (web, db) = (member("web"), member("db"));
        store.insert(&web).unwrap();
        store.insert(&db).unwrap();
        store.set_slot(&db.id, Some(vial_sandbox::Slot(1))).unwrap();
        let known = store.get(&db.id).unwrap().unwrap();
        assert_eq!((known.pod_name.as_deref(), known.slot), (Some("two"), Some(vial_sandbox::Slot(1))));
        store.delete(&web.id).unwrap();
        store.delete(&db.id).unwrap();
        let known = store.pod(&pod.id).unwrap().unwrap();
        assert_eq!(
            (known.state, known.started_ms, known.boot.as_deref()),
            (PodState::Running, Some(6), Some("b1"))
        );

        store.insert(&web).unwrap();
        store.set_slot(&web.id, Some(vial_sandbox::Slot(2))).unwrap();
        store.set_pod_stopped(&pod.id, Some("killed")).unwrap();
        assert_eq!(store.get(&web.id).unwrap().unwrap().slot, None, "a slot goes with its VM");
        store.delete(&web.id).unwrap();

        store.set_pod_removing(&pod.id).unwrap();
        assert!(matches!(store.insert(&member("late")), Err(StoreError::NoSuchPod)));
        store.set_pod_stopped(&pod.id, None).unwrap();
        assert_eq!(
            store.pod(&pod.id).unwrap().unwrap().state,
            PodState::Removing,
            "a removal is not taken back"
        );
        store.delete_pod(&pod.id).unwrap();
        assert!(matches!(store.insert(&member("later")), Err(StoreError::NoSuchPod)));
        assert!(store.pods().unwrap().is_empty());
    }

    #[test]
    fn a_pod_of_a_single_container_is_nobodys_but_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("vial.db")).unwrap();
        let record = new_record("alone");
        store.insert(&record).unwrap();
        assert!(store.pods().unwrap().is_empty());
        assert_eq!(store.pod(&record.pod).unwrap(), None);
        assert_eq!(store.get(&record.id).unwrap().unwrap().state, State::Starting);
    }
}
