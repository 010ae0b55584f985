//! One HTTP request of a probe or hook, with TLS if it is asked for; whose certificate it is does not matter to it (kubelet's neither).

use super::ask::MAX_SAID;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

/// Asks for a path.
///
/// # Errors
/// What it answered, if that is no success; or why there is no answer.
pub async fn get(
    stream: TcpStream,
    is_tls: bool,
    authority: &str,
    path: &str,
    headers: &[(String, String)],
) -> Result<(), String> {
    if !is_tls {
        return over(stream, authority, path, headers).await;
    }
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host).trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).map_err(|error| format!("{host}: {error}"))?;
    let stream = connector()?.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))?;
    over(stream, authority, path, headers).await
}

async fn over(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    authority: &str,
    path: &str,
    headers: &[(String, String)],
) -> Result<(), String> {
    let failed = |error: hyper::Error| error.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // Ends with the sender.
    tokio::spawn(connection);
    let mut request = Request::get(path)
        .header(HOST, authority)
        .header(USER_AGENT, "kube-probe/1.33")
        .header(CONNECTION, "close");
    for (name, value) in headers {
        let (name, value) = (name.parse::<HeaderName>(), HeaderValue::from_str(value));
        let (Ok(name), Ok(value)) = (name, value) else { return Err("a header of the probe is none".into()) };
        request = match request.headers_mut() {
            // Its own instead of ours.
            Some(all) if name == HOST || name == USER_AGENT => {
                all.insert(name, value);
                request
            }
            _ => request.header(name, value),
        };
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let answer = sender.send_request(request).await.map_err(failed)?;
    let status = answer.status();
    if status.is_success() || status.is_redirection() {
        return Ok(());
    }
    let said = Limited::new(answer.into_body(), MAX_SAID)
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    Err(format!(
        "HTTP probe failed with statuscode: {} {}",
        status.as_u16(),
        String::from_utf8_lossy(&said).trim_end()
    )
    .trim_end()
    .to_owned())
}

fn connector() -> Result<TlsConnector, String> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Takes everybody for who they say: a probe asks whether somebody answers, and tells them nothing.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn answered(answer: &'static str) -> Result<(), String> {
        let (here, mut there) = tokio::io::duplex(4096);
        let server = tokio::spawn(async move {
            let mut asked = vec![0; 4096];
            let count = there.read(&mut asked).await.unwrap();
            there.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&asked[..count]).into_owned()
        });
        let told = over(here, "10.0.0.2:80", "/health?x", &[("x-own".into(), "1".into())]).await;
        let asked = server.await.unwrap();
        assert!(asked.starts_with("GET /health?x HTTP/1.1\r\n") && asked.contains("x-own: 1"), "{asked}");
        told
    }

    #[tokio::test]
    async fn a_status_says_how_it_is() {
        assert_eq!(answered("HTTP/1.1 204 No Content\r\n\r\n").await, Ok(()));
        assert_eq!(answered("HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n").await, Ok(()));
        let error = answered("HTTP/1.1 500 No\r\ncontent-length: 4\r\n\r\nsick").await.unwrap_err();
        assert_eq!(error, "HTTP probe failed with statuscode: 500 sick");
        assert!(answered("nonsense\r\n\r\n").await.is_err());
    }
}
