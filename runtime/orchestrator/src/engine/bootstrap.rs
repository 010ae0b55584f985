//! What is there before anybody declares anything.

use super::{Engine, Target, WriteOptions};
use crate::decode::Decoded;
use crate::kinds::{Kind, PERMANENT};
use crate::status::{ApiError, Reason};
use serde_json::{Value, json};

impl Engine {
    /// Makes what clients expect to be there, as far as it is not.
    ///
    /// # Errors
    /// The store does not work.
    pub fn bootstrap(&self) -> Result<(), ApiError> {
        let kind = |plural| Kind::by_path("", "v1", plural).expect("it is in the table");
        for name in PERMANENT {
            self.ensure(Target { kind: kind("namespaces"), namespace: "", name, subresource: "" })?;
            self.ensure(Target {
                kind: kind("serviceaccounts"),
                namespace: name,
                name: "default",
                subresource: "",
            })?;
        }
        Ok(())
    }

    fn ensure(&self, target: Target<'_>) -> Result<(), ApiError> {
        let object: Value = json!({"metadata": {"name": target.name}});
        let options = WriteOptions { manager: "vial".into(), own: true, ..WriteOptions::default() };
        match self.create(target, Decoded { value: object, duplicates: Vec::new() }, &options) {
            Err(error) if error.reason == Reason::AlreadyExists => Ok(()),
            result => result.map(drop),
        }
    }
}
