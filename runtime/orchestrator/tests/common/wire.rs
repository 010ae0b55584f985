//! A client that says what it is told to, right or wrong.

use super::Server;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use vial_orchestrator::tls::Authority;

/// Who may do everything.
#[derive(Clone)]
pub struct Wire {
    connector: TlsConnector,
    address: String,
}

/// One connection, for one request after the other.
pub struct Line(SendRequest<Full<Bytes>>, Wire);

impl Wire {
    pub fn to(server: &Server) -> Self {
        let credential = Authority::at(server.folder.path()).unwrap().client("test").unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(credential.authority.as_bytes()).unwrap()).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(credential.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(credential.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        Self { connector: TlsConnector::from(Arc::new(config)), address: server.address.clone() }
    }

    /// A connection on which nothing has been said.
    pub async fn connect(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(&self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        self.connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
    }

    pub async fn line(&self) -> Line {
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(self.connect().await)).await.unwrap();
        tokio::spawn(connection);
        Line(sender, self.clone())
    }
}

impl Line {
    pub async fn open(
        &mut self,
        method: &str,
        path: &str,
        kind: &str,
        body: impl Into<Bytes>,
    ) -> Response<Incoming> {
        // A server that did not read a body to its end has closed the connection behind its answer.
        if self.0.ready().await.is_err() {
            *self = self.1.line().await;
        }
        let request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(path)
            .header("host", "localhost")
            .header("content-type", kind)
            .body(Full::new(body.into()))
            .unwrap();
        self.0.send_request(request).await.unwrap()
    }

    /// The code and the body of an answer.
    pub async fn ask(
        &mut self,
        method: &str,
        path: &str,
        kind: &str,
        body: impl Into<Bytes>,
    ) -> (u16, Bytes) {
        let reply = self.open(method, path, kind, body).await;
        let code = reply.status().as_u16();
        (code, reply.into_body().collect().await.unwrap().to_bytes())
    }

    /// The same for JSON both ways.
    pub async fn json(&mut self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let (code, body) = self.ask(method, path, kind, text).await;
        (code, serde_json::from_slice(&body).unwrap_or_default())
    }
}
