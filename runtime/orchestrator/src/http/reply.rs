//! Answers.

use crate::status::ApiError;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::header::{CONTENT_TYPE, HeaderValue, WARNING};
use hyper::{Response, StatusCode};
use serde_json::Value;
use std::convert::Infallible;

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;
pub(super) type Reply = Response<Body>;

/// Warnings in one answer at most, and bytes of one.
const MAX_WARNINGS: usize = 32;
const MAX_WARNING: usize = 256;

pub(super) fn bytes(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()).boxed_unsync());
    *reply.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

pub(super) fn json(status: u16, value: &Value) -> Reply {
    bytes(status, "application/json", value.to_string())
}

pub(super) fn error(error: &ApiError) -> Reply {
    json(error.reason.code(), &error.to_status())
}

/// `Warning: 299 - "…"` (RFC 7234, 5.5), as kubectl shows it.
pub(super) fn warn(reply: &mut Reply, warnings: &[String]) {
    for warning in warnings.iter().take(MAX_WARNINGS) {
        let plain: String =
            warning.chars().filter(|c| c.is_ascii() && !c.is_ascii_control()).take(MAX_WARNING).collect();
        let quoted = plain.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            reply.headers_mut().append(WARNING, value);
        }
    }
}
