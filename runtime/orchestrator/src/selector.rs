//! Which objects are meant: label selectors (as text, and as the `LabelSelector` of a spec) and field selectors.

use crate::object;
use crate::status::ApiError;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// Longest selector that is looked at, in bytes.
const MAX_LEN: usize = 64 << 10;

/// All of these must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

impl LabelSelector {
    /// Reads `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    ///
    /// # Errors
    /// It is no selector.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let bad =
            |why: &str| ApiError::bad_request(format!("unable to parse the label selector {text:?}: {why}"));
        if text.len() > MAX_LEN {
            return Err(ApiError::bad_request(format!("the label selector is longer than {MAX_LEN} bytes")));
        }
        let mut requirements = Vec::new();
        for part in split_outside_parentheses(text) {
            let part = part.trim();
            if part.is_empty() {
                if text.trim().is_empty() {
                    break;
                }
                return Err(bad("there is an empty requirement"));
            }
            requirements.push(Requirement::parse(part).map_err(|why| bad(&why))?);
        }
        Ok(Self(requirements))
    }

    /// Of a spec: `matchLabels` and `matchExpressions`. An empty one selects everything, an absent one ([`Value::Null`]) nothing.
    ///
    /// # Errors
    /// An operator that there is not, values where none belong, or none where some do.
    pub fn of_spec(selector: &Value) -> Result<Option<Self>, String> {
        if selector.is_null() {
            return Ok(None);
        }
        let mut requirements = Vec::new();
        for (key, value) in object::texts(object::object(selector, &["matchLabels"])) {
            requirements.push(Requirement { key: key.into(), test: Test::In(vec![value.into()]) });
        }
        for expression in object::list(selector, &["matchExpressions"]) {
            let values = object::list(expression, &["values"]);
            let values: Vec<String> = values.iter().filter_map(Value::as_str).map(str::to_owned).collect();
            let test = match (object::text(expression, &["operator"]), values.is_empty()) {
                ("In", false) => Test::In(values),
                ("NotIn", false) => Test::NotIn(values),
                ("Exists", true) => Test::Exists,
                ("DoesNotExist", true) => Test::DoesNotExist,
                ("In" | "NotIn", true) => return Err("In and NotIn need values".into()),
                ("Exists" | "DoesNotExist", false) => {
                    return Err("Exists and DoesNotExist take no values".into());
                }
                (other, _) => {
                    return Err(format!("{other:?} is no operator: In, NotIn, Exists, DoesNotExist are"));
                }
            };
            requirements.push(Requirement { key: object::text(expression, &["key"]).into(), test });
        }
        Ok(Some(Self(requirements)))
    }

    /// Whether an object with these labels is meant.
    pub fn matches(&self, labels: &BTreeMap<&str, &str>) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.get(requirement.key.as_str());
            let is_among =
                |values: &[String]| value.is_some_and(|value| values.iter().any(|one| one == value));
            match &requirement.test {
                Test::In(values) => is_among(values),
                Test::NotIn(values) => !is_among(values),
                Test::Exists => value.is_some(),
                Test::DoesNotExist => value.is_none(),
            }
        })
    }

    /// Whether everything is meant.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// As [`LabelSelector::parse`] reads it.
impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Requirement { key, test }) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match test {
                Test::In(values) if values.len() == 1 => write!(f, "{key}={}", values[0])?,
                Test::In(values) => write!(f, "{key} in ({})", values.join(","))?,
                Test::NotIn(values) => write!(f, "{key} notin ({})", values.join(","))?,
                Test::Exists => f.write_str(key)?,
                Test::DoesNotExist => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

impl Requirement {
    fn parse(part: &str) -> Result<Self, String> {
        let (key, test) = if let Some(key) = part.strip_prefix('!') {
            (key, Test::DoesNotExist)
        } else if let Some((key, value)) = part.split_once("!=") {
            (key, Test::NotIn(vec![label_value(value)?]))
        } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
            (key, Test::In(vec![label_value(value)?]))
        } else if let Some((head, values)) = part.split_once('(') {
            let values = values.trim_end().strip_suffix(')').ok_or("a parenthesis is not closed")?;
            let values = values.split(',').map(label_value).collect::<Result<_, _>>()?;
            match head.trim().rsplit_once(char::is_whitespace) {
                Some((key, "in")) => (key, Test::In(values)),
                Some((key, "notin")) => (key, Test::NotIn(values)),
                _ => return Err("\"in\" or \"notin\" belongs before a parenthesis".into()),
            }
        } else {
            (part, Test::Exists)
        };
        let key = key.trim();
        if !object::is_qualified_name(key) {
            return Err(format!("{key:?} can't be the key of a label"));
        }
        Ok(Self { key: key.into(), test })
    }
}

fn label_value(text: &str) -> Result<String, String> {
    let text = text.trim();
    if object::is_label_value(text) {
        Ok(text.into())
    } else {
        Err(format!("{text:?} can't be the value of a label"))
    }
}

fn split_outside_parentheses(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.split(move |c| {
        match c {
            '(' => inside = true,
            ')' => inside = false,
            _ => {}
        }
        c == ',' && !inside
    })
}

/// Fields that are not where their name says, or that are not written when they are nothing: their names, the places of which the first that
/// has something counts, and what they are if none has (the kinds' conversions in Kubernetes).
const PLACES: [(&str, &[&str], &str); 4] = [
    ("source", &["source.component", "reportingComponent"], ""),
    ("spec.unschedulable", &["spec.unschedulable"], "false"),
    ("status.replicas", &["status.replicas"], "0"),
    ("status.successful", &["status.succeeded"], "0"),
];

/// What an object has of a selectable field.
fn field(value: &Value, name: &str) -> String {
    let known = PLACES.iter().find(|(known, ..)| *known == name);
    let (places, absent) =
        known.map_or((std::slice::from_ref(&name), ""), |(_, places, absent)| (*places, *absent));
    let texts = places.iter().map(|place| {
        let path: Vec<&str> = place.split('.').collect();
        match object::at(value, &path) {
            None => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        }
    });
    texts.into_iter().find(|text| !text.is_empty()).unwrap_or_else(|| absent.into())
}

/// All of these fields must be (or not be) so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<FieldTest>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldTest {
    path: String,
    value: String,
    equal: bool,
}

impl FieldSelector {
    /// Reads `a.b=c,d!=e`; `\` takes the meaning from a comma, an equals sign and itself.
    ///
    /// # Errors
    /// It is no selector, or of a field that is not among `selectable`.
    pub fn parse(text: &str, selectable: &[&str]) -> Result<Self, ApiError> {
        if text.len() > MAX_LEN {
            return Err(ApiError::bad_request(format!("the field selector is longer than {MAX_LEN} bytes")));
        }
        let mut tests = Vec::new();
        for part in split_unescaped(text, ',').into_iter().filter(|part| !part.is_empty()) {
            let (path, rest) = part.find(['=', '!']).map(|at| part.split_at(at)).ok_or_else(|| {
                ApiError::bad_request(format!("invalid field selector {part:?}: give it as field=value"))
            })?;
            let (equal, value) = if let Some(value) = rest.strip_prefix("!=") {
                (false, value)
            } else {
                (
                    true,
                    rest.trim_start_matches('!')
                        .strip_prefix("==")
                        .or_else(|| rest.strip_prefix('='))
                        .unwrap_or_default(),
                )
            };
            if !selectable.contains(&path) {
                return Err(ApiError::bad_request(format!(
                    "field label not supported: {path}; objects of this kind are selected by {}",
                    selectable.join(", ")
                )));
            }
            tests.push(FieldTest { path: path.into(), value: unescape(value), equal });
        }
        Ok(Self(tests))
    }

    /// Whether this object is meant.
    pub fn matches(&self, value: &Value) -> bool {
        self.0.iter().all(|test| (field(value, &test.path) == test.value) == test.equal)
    }

    /// The value that `path` must have, if there is just one: what a list by name is.
    pub fn exact(&self, path: &str) -> Option<&str> {
        self.0.iter().find(|test| test.equal && test.path == path).map(|test| test.value.as_str())
    }
}

fn split_unescaped(text: &str, at: char) -> Vec<&str> {
    let mut escaped = false;
    text.split(|c| {
        let here = c == at && !escaped;
        escaped = c == '\\' && !escaped;
        here
    })
    .collect()
}

fn unescape(text: &str) -> String {
    let mut escaped = false;
    text.chars()
        .filter(|c| {
            escaped = *c == '\\' && !escaped;
            !escaped
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn matches(selector: &str, labels: &[(&str, &str)]) -> bool {
        LabelSelector::parse(selector).unwrap().matches(&labels.iter().copied().collect())
    }

    #[test]
    fn labels_are_selected_as_kubectl_writes_it() {
        let labels = [("app", "web"), ("tier", "front"), ("x.io/y", "")];
        for good in [
            "",
            "app=web",
            "app==web",
            "app!=db",
            "other!=x",
            "app",
            "!other",
            "app in (web, db)",
            "app notin (db)",
            "none notin (a)",
            "app=web,tier in (front,back),!z",
            "x.io/y",
            "x.io/y=",
            " app = web ",
        ] {
            assert!(matches(good, &labels), "{good}");
        }
        for bad in ["app=db", "!app", "other", "app notin (web)", "app in (db)", "app=web,tier=back"] {
            assert!(!matches(bad, &labels), "{bad}");
        }
        for wrong in ["=", "a,,b", "app in web", "app near (x)", "app in (x", "a b=c", "app=a/b", ","] {
            assert!(LabelSelector::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_selector_of_a_spec_is_the_same_as_text() {
        let selector = LabelSelector::of_spec(&json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "c", "operator": "In", "values": ["d", "e"]}, {"key": "f", "operator": "NotIn", "values": ["g"]},
            {"key": "h", "operator": "Exists"}, {"key": "i", "operator": "DoesNotExist"}]}));
        let selector = selector.unwrap().unwrap();
        assert_eq!(selector.to_string(), "a=b,c in (d,e),f notin (g),h,!i");
        assert_eq!(LabelSelector::parse(&selector.to_string()).unwrap(), selector);
    }

    #[test]
    fn an_empty_selector_of_a_spec_is_everything_and_an_absent_one_nothing() {
        assert_eq!(LabelSelector::of_spec(&Value::Null), Ok(None));
        assert!(LabelSelector::of_spec(&json!({})).unwrap().unwrap().is_empty());
        let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "DoesNotExist"}]});
        let selector = LabelSelector::of_spec(&selector).unwrap().unwrap();
        assert!(selector.matches(&[("a", "b")].into()) && !selector.matches(&[("a", "b"), ("c", "")].into()));
        assert!(
            LabelSelector::of_spec(&json!({"matchExpressions": [{"key": "c", "operator": "In"}]})).is_err()
        );
    }

    #[test]
    fn fields_are_selected_among_those_that_can_be() {
        let pod = json!({"metadata": {"name": "a"}, "status": {"phase": "Running"}});
        let selectable = ["metadata.name", "status.phase", "spec.nodeName"];
        let parse = |text| FieldSelector::parse(text, &selectable);
        assert!(parse("metadata.name=a,status.phase!=Failed").unwrap().matches(&pod));
        assert!(parse("spec.nodeName=").unwrap().matches(&pod));
        assert!(!parse("status.phase==Failed").unwrap().matches(&pod));
        assert_eq!(parse("metadata.name=a\\,b").unwrap().exact("metadata.name"), Some("a,b"));
        assert!(parse("spec.frob=1").unwrap_err().message.contains("field label not supported: spec.frob"));
        assert!(parse("name").is_err());
    }

    #[test]
    fn a_field_is_what_it_means_wherever_it_is() {
        for (object, selector) in [
            (json!({"spec": {}}), "spec.unschedulable=false"),
            (json!({"spec": {"unschedulable": true}}), "spec.unschedulable=true"),
            (json!({"source": {"component": "default-scheduler"}}), "source=default-scheduler"),
            (json!({"source": {}, "reportingComponent": "mine"}), "source=mine"),
            (json!({"status": {"succeeded": 3}}), "status.successful=3"),
            (json!({}), "status.successful=0,status.replicas=0"),
        ] {
            let names: Vec<&str> =
                selector.split(',').filter_map(|test| Some(test.split_once('=')?.0)).collect();
            let parsed = FieldSelector::parse(selector, &names).unwrap();
            assert!(parsed.matches(&object), "{selector} of {object}");
            let others = selector.replace('=', "!=");
            assert!(!FieldSelector::parse(&others, &names).unwrap().matches(&object), "{others} of {object}");
        }
    }

    proptest! {
        #[test]
        fn no_selector_is_too_strange(text in "[a-z(),=!\\\\ .]{0,40}") {
            let _ = LabelSelector::parse(&text);
            let _ = FieldSelector::parse(&text, &["a"]);
        }
    }
}
