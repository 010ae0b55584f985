//! Where an image's configuration and the options of a run meet, by Docker's rules.

use std::collections::BTreeMap;

/// Entrypoint and command as one argument list.
///
/// An entrypoint of the run's own takes the image's command away with it, even when it is empty; a command of the run's
/// own replaces only the image's command.
pub fn arguments(
    image_entrypoint: &[String],
    image_command: &[String],
    entrypoint: Option<&[String]>,
    command: &[String],
) -> Vec<String> {
    let (entrypoint, command) = match entrypoint {
        Some(own) => (own, command),
        None if command.is_empty() => (image_entrypoint, image_command),
        None => (image_entrypoint, command),
    };
    entrypoint.iter().chain(command).cloned().collect()
}

/// Lays environments over each other: a later `KEY=VALUE` replaces an earlier one in its place, a later bare `KEY`
/// removes it, new ones come behind.
pub fn environment<'a>(layers: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut order: Vec<Option<String>> = Vec::new();
    let mut place: BTreeMap<String, usize> = BTreeMap::new();
    for entry in layers {
        let (key, has_value) = match entry.split_once('=') {
            Some((key, _)) => (key, true),
            None => (entry, false),
        };
        if key.is_empty() {
            continue;
        }
        match (place.get(key).copied(), has_value) {
            (Some(at), true) => order[at] = Some(entry.to_owned()),
            (Some(at), false) => {
                order[at] = None;
                place.remove(key);
            }
            (None, true) => {
                place.insert(key.to_owned(), order.len());
                order.push(Some(entry.to_owned()));
            }
            (None, false) => {}
        }
    }
    order.into_iter().flatten().collect()
}

/// Whether a user string means root, as far as can be told without the container's /etc/passwd.
pub fn is_root(user: &str) -> bool {
    matches!(user.split(':').next(), None | Some("" | "0" | "root"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[&str]) -> Vec<String> {
        items.iter().map(|&item| item.to_owned()).collect()
    }

    #[test]
    fn entrypoint_and_command_merge_as_docker_does() {
        let (entry, cmd, own, more) = (list(&["/entry"]), list(&["cmd"]), list(&["/own"]), list(&["x", "y"]));
        let none: Vec<String> = vec![];
        assert_eq!(arguments(&entry, &cmd, None, &none), ["/entry", "cmd"]);
        assert_eq!(arguments(&entry, &cmd, None, &more), ["/entry", "x", "y"]);
        assert_eq!(arguments(&entry, &cmd, Some(&own), &none), ["/own"]);
        assert_eq!(arguments(&entry, &cmd, Some(&own), &more), ["/own", "x", "y"]);
        assert_eq!(arguments(&entry, &cmd, Some(&none), &more), ["x", "y"]);
        assert!(arguments(&entry, &cmd, Some(&none), &none).is_empty());
        assert_eq!(arguments(&none, &cmd, None, &none), ["cmd"]);
    }

    #[test]
    fn environments_lie_over_each_other() {
        let merged = environment(["PATH=/bin", "A=1", "B=2", "A=3", "B", "C=", "=bad", "D"]);
        assert_eq!(merged, ["PATH=/bin", "A=3", "C="]);
        assert_eq!(environment(["A=1", "A", "A=2"]), ["A=2"]);
    }

    #[test]
    fn root_is_known_without_a_passwd() {
        assert!(is_root("") && is_root("0") && is_root("root") && is_root("0:5") && is_root("root:adm"));
        assert!(!is_root("1000") && !is_root("nobody") && !is_root("1000:0"));
    }
}
