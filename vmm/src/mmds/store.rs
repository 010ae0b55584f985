//! The document: put whole, patched in part (RFC 7396), read at a path.

use super::MmdsMetrics;
use serde_json::Value;
use std::sync::Arc;

/// Why the document does not do what is asked. Firecracker's words, which clients compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It would be longer than allowed.
    #[error("The MMDS patch request doesn't fit.")]
    TooBig,
    /// Nothing is there.
    #[error("The MMDS resource does not exist.")]
    NotFound,
    /// There is no document that could be patched.
    #[error("The MMDS data store is not initialized.")]
    NotInitialized,
    /// Plain text has names of objects and strings only.
    #[error("Cannot retrieve value. The value has an unsupported type.")]
    UnsupportedType,
}

/// The document.
#[derive(Debug, Clone)]
pub struct Store {
    document: Option<Value>,
    limit: usize,
    metrics: Arc<MmdsMetrics>,
}

impl Store {
    /// No document; one may have `limit` bytes as compact JSON.
    pub fn new(limit: usize) -> Self {
        Self { document: None, limit, metrics: Arc::default() }
    }

    /// What is counted of those who read it.
    pub fn metrics(&self) -> &Arc<MmdsMetrics> {
        &self.metrics
    }

    /// The document, `{}` if there is none.
    pub fn document(&self) -> Value {
        self.document.clone().unwrap_or_else(|| Value::Object(Default::default()))
    }

    /// Puts `document` in the place of the present one.
    ///
    /// # Errors
    /// [`StoreError::TooBig`]; the present one stays then.
    pub fn put(&mut self, document: Value) -> Result<(), StoreError> {
        if document.to_string().len() > self.limit {
            return Err(StoreError::TooBig);
        }
        self.document = Some(document);
        Ok(())
    }

    /// Merges `patch` into the document (RFC 7396): null removes, objects merge, everything else replaces.
    ///
    /// # Errors
    /// [`StoreError::NotInitialized`] or [`StoreError::TooBig`]; the document stays as it was then.
    pub fn patch(&mut self, patch: &Value) -> Result<(), StoreError> {
        let mut merged = self.document.clone().ok_or(StoreError::NotInitialized)?;
        merge(&mut merged, patch);
        self.put(merged)
    }

    /// What is at `path`, as JSON.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub fn json(&self, path: &str) -> Result<String, StoreError> {
        self.at(path).map(Value::to_string)
    }

    /// What is at `path`, as EC2's service says it: the names in an object, one a line, objects with a slash; or a string.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::UnsupportedType`].
    pub fn text(&self, path: &str) -> Result<String, StoreError> {
        match self.at(path)? {
            Value::Object(fields) => {
                let line = |(name, value): (&String, &Value)| {
                    if value.is_object() { format!("{name}/") } else { name.clone() }
                };
                Ok(fields.iter().map(line).collect::<Vec<_>>().join("\n"))
            }
            Value::String(text) => Ok(text.clone()),
            _ => Err(StoreError::UnsupportedType),
        }
    }

    fn at(&self, path: &str) -> Result<&Value, StoreError> {
        let document = self.document.as_ref().ok_or(StoreError::NotFound)?;
        document.pointer(path.strip_suffix('/').unwrap_or(path)).ok_or(StoreError::NotFound)
    }
}

/// As deep as the patch, which a parser has bounded.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Default::default());
    }
    let Some(fields) = target.as_object_mut() else { return };
    for (name, change) in changes {
        if change.is_null() {
            fields.remove(name);
        } else {
            merge(fields.entry(name).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn the_examples_of_rfc_7396_come_out() {
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a": "b"}), json!(["c"]), json!(["c"])),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let mut store = Store::new(1000);
            store.put(target).unwrap();
            store.patch(&patch).unwrap();
            assert_eq!(store.document(), result);
        }
    }

    #[test]
    fn the_limit_holds_for_what_comes_out_of_a_patch() {
        let mut store = Store::new(20);
        assert_eq!(store.patch(&json!({})), Err(StoreError::NotInitialized));
        store.put(json!({"a": "12345"})).unwrap();
        assert_eq!(store.patch(&json!({"b": "12345678"})), Err(StoreError::TooBig));
        assert_eq!(store.put(json!("x".repeat(19))), Err(StoreError::TooBig));
        assert_eq!(store.document(), json!({"a": "12345"}));
    }

    #[test]
    fn objects_are_lists_of_names_in_plain_text() {
        let mut store = Store::new(1000);
        assert_eq!(store.text("/"), Err(StoreError::NotFound));
        store.put(json!({"ami": "x", "meta": {"id": "i-1", "tags": {}}, "number": 7})).unwrap();
        assert_eq!(store.text("/").unwrap(), "ami\nmeta/\nnumber");
        assert_eq!(store.text("/meta/").unwrap(), "id\ntags/");
        assert_eq!(store.text("/meta/id").unwrap(), "i-1");
        assert_eq!(store.json("/meta/id").unwrap(), "\"i-1\"");
        assert_eq!(store.text("/number"), Err(StoreError::UnsupportedType));
        assert_eq!(store.json("/number").unwrap(), "7");
        assert_eq!(store.json("/meta/none"), Err(StoreError::NotFound));
    }

    proptest! {
        #[test]
        fn any_path_is_answered(path in "(/[a-z~0-9]{0,3}){0,5}/?") {
            let mut store = Store::new(1000);
            store.put(json!({"a": {"b": ["c", {"d": "e"}]}})).unwrap();
            let _ = (store.json(&path), store.text(&path));
        }
    }
}
