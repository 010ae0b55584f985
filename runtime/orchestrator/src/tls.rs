//! Certificates: a CA of this machine's own, the server's certificate, and those of clients.
//!
//! Nothing is served to who has no certificate of the CA. Its key is readable by its owner only; so is a kubeconfig.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

const NAME: &str = "vial";
/// The one user that there is.
pub const USER: &str = "admin";
/// Kubernetes' group of those who may do everything.
pub const ADMINISTRATORS: &str = "system:masters";

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read or written.
    #[error("{path} can't be used: {source}")]
    File {
        /// Which.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// A certificate can't be made.
    #[error("a certificate can't be made: {0}")]
    Make(#[from] rcgen::Error),
    /// What is on the disk is no certificate or key.
    #[error(
        "the API server's certificates are damaged ({0}): remove ca.crt and ca.key, and write new kubeconfigs"
    )]
    Damaged(String),
    /// TLS refuses them.
    #[error("TLS can't be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// The CA.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// What a client needs, as PEM.
#[derive(Debug, Clone)]
pub struct Credential {
    /// The CA's certificate.
    pub authority: String,
    /// The client's.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

fn subject(name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    if let Some(organization) = organization {
        subject.push(DnType::OrganizationName, organization);
    }
    subject
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject("vial-ca", None);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

impl Authority {
    /// Reads the CA in `folder`, or makes one there.
    ///
    /// # Errors
    /// The files can't be read or written, or are damaged.
    pub fn at(folder: &Path) -> Result<Self, TlsError> {
        let (certificate_path, key_path) = (folder.join("ca.crt"), folder.join("ca.key"));
        let failed = |path: &Path| {
            let path = path.display().to_string();
            move |source| TlsError::File { path, source }
        };
        let (certificate, key) = match std::fs::read_to_string(&key_path) {
            Ok(key) => {
                let certificate =
                    std::fs::read_to_string(&certificate_path).map_err(failed(&certificate_path))?;
                (certificate, KeyPair::from_pem(&key).map_err(|error| TlsError::Damaged(error.to_string()))?)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = KeyPair::generate()?;
                let certificate = authority_params().self_signed(&key)?.pem();
                write(&certificate_path, certificate.as_bytes()).map_err(failed(&certificate_path))?;
                // Last: where a key is, there is a certificate.
                write(&key_path, key.serialize_pem().as_bytes()).map_err(failed(&key_path))?;
                (certificate, key)
            }
            Err(error) => return Err(failed(&key_path)(error)),
        };
        CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|error| TlsError::Damaged(error.to_string()))?;
        Ok(Self { issuer: Issuer::new(authority_params(), key), certificate })
    }

    /// A certificate for a client, for everything.
    ///
    /// # Errors
    /// It can't be made.
    pub fn client(&self, name: &str) -> Result<Credential, TlsError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(name, Some(ADMINISTRATORS));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Credential {
            authority: self.certificate.clone(),
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// The server's side, for these addresses beside `localhost`.
    ///
    /// # Errors
    /// A certificate can't be made, or TLS refuses it.
    pub fn server(&self, addresses: &[IpAddr]) -> Result<TlsAcceptor, TlsError> {
        let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        let mut params = CertificateParams::new(names.map(str::to_owned))?;
        params.distinguished_name = subject(NAME, None);
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let damaged = |error: &dyn std::fmt::Display| TlsError::Damaged(error.to_string());
        let mut roots = RootCertStore::empty();
        let authority =
            CertificateDer::from_pem_slice(self.certificate.as_bytes()).map_err(|error| damaged(&error))?;
        roots.add(authority)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        // A client without a certificate is told so in words, by HTTP.
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(|error| damaged(&error))?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|error| damaged(&error))?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate.der().clone()], key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

impl Credential {
    /// A kubeconfig for a server at `address`.
    pub fn kubeconfig(&self, address: &str) -> String {
        use base64::Engine as _;
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: {NAME}\n  cluster:\n    server: https://{address}\n    \
             certificate-authority-data: {}\nusers:\n- name: {NAME}\n  user:\n    client-certificate-data: {}\n    \
             client-key-data: {}\ncontexts:\n- name: {NAME}\n  context:\n    cluster: {NAME}\n    user: {NAME}\n\
             current-context: {NAME}\n",
            encode(&self.authority),
            encode(&self.certificate),
            encode(&self.key)
        )
    }
}

/// Writes a file that only its owner reads, as a whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}
