//! Objects as rows for people: `meta/v1.Table`, which kubectl prints as it comes. Columns of priority 1 are for `-o wide`.

mod age;
mod cells;
mod pod;

pub use age::human;

use crate::kinds::Kind;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

/// A column.
struct Column {
    name: &'static str,
    kind: &'static str,
    priority: u8,
    cell: fn(&Value, DateTime<Utc>) -> Value,
}

/// What a row carries beside its cells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// Its metadata: what kubectl asks for.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

/// The table of these objects.
pub fn table(
    kind: &'static Kind,
    objects: &[&Value],
    metadata: Value,
    version: &str,
    include: Include,
    now: DateTime<Utc>,
) -> Value {
    let columns = cells::columns(kind.kind);
    let definitions: Vec<Value> = columns
        .iter()
        .map(|column| {
            let format = if column.name == "Name" { "name" } else { "" };
            json!({"name": column.name, "type": column.kind, "format": format, "description": "", "priority": column.priority})
        })
        .collect();
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let cells: Vec<Value> = columns.iter().map(|column| (column.cell)(object, now)).collect();
            let mut row = json!({"cells": cells});
            match include {
                Include::None => {}
                Include::Metadata => {
                    row["object"] = json!({
                        "kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": object["metadata"],
                    });
                }
                Include::Object => row["object"] = (*object).clone(),
            }
            row
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata,
        "columnDefinitions": definitions, "rows": rows,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::KINDS;
    use crate::schema::schema;

    #[test]
    fn every_kind_has_columns_and_they_bear_an_object_of_nothing() {
        let now = DateTime::UNIX_EPOCH;
        for kind in &KINDS {
            let rubbish = [json!({}), json!({"metadata": 3, "spec": [], "status": "x"}), Value::Null];
            let table =
                table(kind, &rubbish.iter().collect::<Vec<_>>(), json!({}), "v1", Include::Metadata, now);
            let columns = table["columnDefinitions"].as_array().unwrap();
            assert!(columns.len() >= 3, "{}", kind.kind);
            for row in table["rows"].as_array().unwrap() {
                assert_eq!(row["cells"].as_array().unwrap().len(), columns.len());
            }
            assert!(schema().get(kind.structure).is_some());
        }
    }
}
