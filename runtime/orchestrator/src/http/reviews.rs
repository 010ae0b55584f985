//! Reviews: kinds of which there are only questions, answered at once. Who may do what, and who is asking.
//!
//! There is one user, and whoever has the certificate may do everything.

use super::reply::{self, Reply};
use super::resources::Call;
use crate::decode;
use crate::status::{ApiError, Cause, CauseKind, Reason};
use crate::tls::{ADMINISTRATORS, USER};
use hyper::Method;
use serde_json::{Value, json};

/// One kind of question.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Review {
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) plural: &'static str,
    pub(super) kind: &'static str,
}

/// All of them.
const REVIEWS: [Review; 3] = [
    Review {
        group: "authentication.k8s.io",
        version: "v1",
        plural: "selfsubjectreviews",
        kind: "SelfSubjectReview",
    },
    Review {
        group: "authorization.k8s.io",
        version: "v1",
        plural: "selfsubjectaccessreviews",
        kind: "SelfSubjectAccessReview",
    },
    Review {
        group: "authorization.k8s.io",
        version: "v1",
        plural: "selfsubjectrulesreviews",
        kind: "SelfSubjectRulesReview",
    },
];

/// Those of a group.
pub(super) fn of(group: &str, version: &str) -> impl Iterator<Item = &'static Review> {
    REVIEWS.iter().filter(move |review| review.group == group && review.version == version)
}

/// The one of these steps of a path.
pub(super) fn at(group: &str, version: &str, plural: &str) -> Option<&'static Review> {
    of(group, version).find(|review| review.plural == plural)
}

/// Answers one.
///
/// # Errors
/// It is not created, or no object.
pub(super) fn answer(review: &Review, call: &Call<'_>) -> Result<Reply, ApiError> {
    if *call.method != Method::POST {
        return Err(ApiError::new(Reason::MethodNotAllowed, "a review can only be created"));
    }
    let mut value = decode::body(call.content_type, call.body)?.value;
    if !value.is_object() {
        return Err(ApiError::bad_request("a review is a JSON object"));
    }
    if review.plural == "selfsubjectaccessreviews" {
        // To a question that asks nothing any answer would be wrong.
        let said =
            ["resourceAttributes", "nonResourceAttributes"].map(|field| value["spec"][field].is_object());
        if said[0] == said[1] {
            let message = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            let cause = Cause::new(CauseKind::Invalid, "spec.resourceAttributes", message);
            return Err(ApiError::invalid(review.group, review.kind, "", vec![cause]));
        }
    }
    value["kind"] = review.kind.into();
    value["apiVersion"] = format!("{}/{}", review.group, review.version).into();
    value["status"] = status(review.kind);
    Ok(reply::json(201, &value))
}

fn status(kind: &str) -> Value {
    match kind {
        "SelfSubjectReview" => {
            json!({"userInfo": {"username": USER, "groups": [ADMINISTRATORS, "system:authenticated"]}})
        }
        "SelfSubjectRulesReview" => {
            json!({"resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}], "incomplete": false})
        }
        _ => json!({"allowed": true}),
    }
}
