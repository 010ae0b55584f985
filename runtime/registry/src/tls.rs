//! Whom to trust: the system's CAs, a registry's own from folders, and what the user gave.

use crate::config::Registries;
use crate::error::Cause;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::path::Path;
use std::sync::Arc;

/// Certificates and perhaps a key for one registry.
#[derive(Default)]
struct Extra {
    trusted: Vec<CertificateDer<'static>>,
    client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

/// The TLS configuration for a registry. `user_ca`: PEM that the user gave for this one request.
///
/// # Errors
/// When a certificate is unusable. Without any CA on the machine it is the handshake that fails, for plain HTTP needs none.
pub fn config(
    registry: &str,
    user_ca: Option<&[u8]>,
    registries: &Registries,
) -> Result<ClientConfig, Cause> {
    let mut extra = Extra::default();
    for dir in registries.certificate_dirs(registry) {
        extra.read(&dir)?;
    }
    if let Some(pem) = user_ca {
        let given = certificates(pem).map_err(|why| setup("the CA that was given", &why))?;
        extra.trusted.extend(given);
    }
    let mut roots = RootCertStore::empty();
    // Single unusable certificates among the system's are common and no reason to stop.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for certificate in &extra.trusted {
        let added = roots.add(certificate.clone());
        added.map_err(|error| setup("a certificate of this registry", &error.to_string()))?;
    }
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier::new(roots, extra.trusted, provider.clone())?;
    let wrong = |error: Error| setup("the client certificate", &error.to_string());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(wrong)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    match extra.client {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(wrong),
        None => Ok(builder.with_no_client_auth()),
    }
}

fn setup(what: &str, why: &str) -> Cause {
    Cause::TlsSetup(format!("{what} is unusable: {why}"))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err("there is no certificate in PEM form in it".into()),
        Ok(found) => Ok(found),
        Err(error) => Err(error.to_string()),
    }
}

impl Extra {
    /// A folder as Docker has them: `*.crt` are CAs, `*.cert` with `*.key` of the same name is what we show.
    fn read(&mut self, dir: &Path) -> Result<(), Cause> {
        // No such folder, or not ours to read: then it says nothing.
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let shown = path.display().to_string();
            let read = |path: &Path| std::fs::read(path).map_err(|error| setup(&shown, &error.to_string()));
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => {
                    self.trusted.extend(certificates(&read(&path)?).map_err(|why| setup(&shown, &why))?);
                }
                Some("cert") => {
                    let chain = certificates(&read(&path)?).map_err(|why| setup(&shown, &why))?;
                    let key = PrivateKeyDer::from_pem_slice(&read(&path.with_extension("key"))?)
                        .map_err(|error| setup(&shown, &format!("its key: {error}")))?;
                    self.client = Some((chain, key));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The usual checks, with one exception: a certificate that was given for this registry is trusted as it is, even if it
/// calls itself a CA. That is what `openssl req -x509` makes and what every guide to a private registry tells people to use;
/// the standard's own rules refuse it. Its name is still checked; how long it lasts is not.
#[derive(Debug)]
struct Verifier {
    usual: Option<Arc<WebPkiServerVerifier>>,
    given: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(
        roots: RootCertStore,
        given: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, Cause> {
        let usual = if roots.is_empty() {
            None
        } else {
            let built =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
            Some(built.map_err(|error| Cause::TlsSetup(error.to_string()))?)
        };
        Ok(Self { usual, given, provider })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(usual) = &self.usual else {
            return Err(Error::General(
                "this machine has no CA certificates; install the package ca-certificates".into(),
            ));
        };
        match usual.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(CertificateError::Other(_))) if self.given.contains(end_entity) => {
                let parsed = ParsedCertificate::try_from(end_entity)?;
                rustls::client::verify_server_name(&parsed, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
