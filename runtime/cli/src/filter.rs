//! `ps --filter`: which containers somebody means. Pure functions.

use vial_api::{Container, State};

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// `status=exited`
    Status(State),
    /// `name=web`: a part of the name; `^` and `$` stand for its ends.
    Name(String),
    /// `id=4f2`: how the id begins.
    Id(String),
    /// `label=a`, `label=a=b`
    Label(String, Option<String>),
    /// `ancestor=busybox`: the image's name, with or without its tag, or its id.
    Ancestor(String),
    /// `exited=3`
    Exited(i32),
    /// `pod=shop`: its name, or how its id begins.
    Pod(String),
}

impl Filter {
    /// Reads `KEY=VALUE`.
    ///
    /// # Errors
    /// A sentence that says what is possible.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (key, value) =
            text.split_once('=').ok_or("a filter is written as KEY=VALUE, as in status=exited")?;
        Ok(match key {
            "status" => Self::Status(State::parse(value).ok_or_else(|| {
                let all: Vec<&str> = State::ALL.iter().map(|state| state.as_str()).collect();
                format!("there is no status {value:?}; there are {}", all.join(", "))
            })?),
            "name" => Self::Name(value.to_owned()),
            "id" => Self::Id(value.to_owned()),
            "label" => match value.split_once('=') {
                Some((key, value)) => Self::Label(key.to_owned(), Some(value.to_owned())),
                None => Self::Label(value.to_owned(), None),
            },
            "ancestor" => Self::Ancestor(value.to_owned()),
            "exited" => Self::Exited(value.parse().map_err(|_| format!("{value:?} is no exit status"))?),
            "pod" if value.is_empty() => return Err("pod= needs a name or an id".into()),
            "pod" => Self::Pod(value.to_owned()),
            _ => {
                return Err(format!(
                    "there is no filter {key:?}; there are status, name, id, label, ancestor, exited, pod"
                ));
            }
        })
    }

    fn holds(&self, container: &Container) -> bool {
        match self {
            Self::Status(state) => container.state == *state,
            Self::Name(wanted) => {
                let name = format!("^{}$", container.name);
                name.contains(wanted.trim_start_matches('/'))
            }
            Self::Pod(pod) => container.pod_name.as_ref() == Some(pod) || container.pod.starts_with(pod),
            Self::Id(begin) => container.id.starts_with(begin),
            Self::Label(key, None) => container.labels.contains_key(key),
            Self::Label(key, Some(value)) => container.labels.get(key) == Some(value),
            Self::Ancestor(image) => {
                let id = container.image_id.strip_prefix("sha256:").unwrap_or(&container.image_id);
                let digits = image.strip_prefix("sha256:").unwrap_or(image);
                let untagged = |name: &str| match name.rsplit_once(':') {
                    Some((name, tag)) if !tag.contains('/') => name.to_owned(),
                    _ => name.to_owned(),
                };
                container.image == *image
                    || untagged(&container.image) == *image
                    || (container.image == untagged(image) && image.ends_with(":latest"))
                    || (digits.len() >= 4 && id.starts_with(digits))
            }
            Self::Exited(code) => {
                matches!(container.state, State::Exited)
                    && container.exit.as_ref().is_some_and(|exit| exit.code == *code)
            }
        }
    }

    /// Whether one of the same kind as another is an alternative to it; two labels are both wanted, as Docker has it.
    fn is_alternative(&self, other: &Self) -> bool {
        !matches!(self, Self::Label(..)) && std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// Whether it is about containers that do not run too.
    pub fn wants_all(&self) -> bool {
        matches!(self, Self::Status(_) | Self::Exited(_))
    }
}

/// Whether a container is meant: for each kind of filter one of that kind must hold.
pub fn holds(filters: &[Filter], container: &Container) -> bool {
    filters.iter().all(|filter| {
        filter.holds(container)
            || filters.iter().any(|other| filter.is_alternative(other) && other.holds(container))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> Container {
        serde_json::from_value(serde_json::json!({
            "id": "4f2".repeat(21) + "a", "name": "web-1", "pod": "p", "image": "docker.io/library/nginx:1.2", "image_id": "sha256:abcdef",
            "command": ["sh"], "state": "exited", "exit": { "code": 3 }, "created_ms": 1, "memory": 1, "milli_cpus": 1000,
            "auto_remove": false, "labels": { "a": "b", "c": "" },
        }))
        .unwrap()
    }

    #[test]
    fn filters_mean_what_they_say() {
        let rows = [
            (&["status=exited"][..], true),
            (&["status=running"], false),
            (&["status=running", "status=exited"], true),
            (&["status=exited", "name=db"], false),
            (&["name=web"], true),
            (&["name=^web-1$"], true),
            (&["name=^web$"], false),
            (&["id=4f24"], true),
            (&["label=a"], true),
            (&["label=a=b", "label=c"], true),
            (&["label=a=b", "label=x"], false),
            (&["label=a=c"], false),
            (&["ancestor=docker.io/library/nginx"], true),
            (&["ancestor=docker.io/library/nginx:1.2"], true),
            (&["ancestor=nginx"], false),
            (&["ancestor=abcd"], true),
            (&["exited=3"], true),
            (&["exited=0"], false),
        ];
        for (texts, expected) in rows {
            let filters: Vec<Filter> = texts.iter().map(|text| Filter::parse(text).unwrap()).collect();
            assert_eq!(holds(&filters, &container()), expected, "{texts:?}");
        }
        for bad in ["status", "status=gone", "colour=red", "exited=x"] {
            assert!(Filter::parse(bad).is_err(), "{bad}");
        }
    }
}
