//! TLS's side of a configuration: certificates, keys and authorities as PEM, made into what sessions begin with.
//!
//! A `Tls` never changes: where files have changed, a new one takes its place for new connections (`Relay::set_tls`). Keys of
//! sessions are written to the file of the variable SSLKEYLOGFILE, where there is one, as Wireshark reads them. TLS 1.2 and 1.3.
//! Knows no sockets, and no files but that one.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{ring, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, KeyLogFile,
    RootCertStore, ServerConfig, ServerConnection, SignatureScheme,
};

/// A chain of certificates, the own one first, and its key; PEM, with whatever else is in the file.
#[derive(Clone)]
pub struct Identity {
    /// What it is called where something is wrong with it.
    pub name: String,
    pub chain: Vec<u8>,
    pub key: Vec<u8>,
}

/// Authorities, PEM.
#[derive(Clone)]
pub struct Authorities {
    pub name: String,
    pub pem: Vec<u8>,
}

/// Clients speak TLS.
pub struct ToClients {
    /// The one whose names hold the name that a client asks for, else the first.
    pub identities: Vec<Identity>,
    /// Who signs the certificates of clients, and whether they must have one.
    pub clients: Option<(Authorities, bool)>,
}

/// How much of a server's certificate is looked at.
pub enum Verify {
    /// Who signed it, and that it is for the server's name.
    Full(Authorities),
    /// Who signed it.
    Authority(Authorities),
    None,
}

/// Servers speak TLS.
pub struct ToServers {
    pub verify: Verify,
    /// What is shown to them when they ask.
    pub identity: Option<Identity>,
}

/// What new connections use.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    clients: Option<Arc<ServerConfig>>,
    servers: Option<Arc<ClientConfig>>,
}

impl Tls {
    /// Whoever has a wrong file, and what is wrong with it, is an error.
    pub fn new(clients: Option<ToClients>, servers: Option<ToServers>) -> Result<Self, String> {
        Ok(Self {
            clients: clients.map(serving).transpose()?.map(Arc::new),
            servers: servers.map(asking).transpose()?.map(Arc::new),
        })
    }

    /// A session with a client.
    pub fn serve(&self) -> Option<Result<ServerConnection, Error>> {
        let config = self.clients.as_ref()?;
        Some(ServerConnection::new(Arc::clone(config)))
    }

    /// A session with a server of this name.
    pub fn ask(&self, name: &str) -> Option<Result<ClientConnection, Error>> {
        let config = Arc::clone(self.servers.as_ref()?);
        let name = ServerName::try_from(name.to_owned());
        Some(match name {
            Ok(name) => ClientConnection::new(config, name),
            Err(_) => Err(Error::General("no name of a host".to_owned())),
        })
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn certificates(name: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("{name}: there is no certificate in it (PEM)")),
        Err(error) => Err(format!("{name}: {error}")),
    }
}

fn authorities(given: &Authorities) -> Result<Arc<RootCertStore>, String> {
    let Authorities { name, pem } = given;
    let mut store = RootCertStore::empty();
    for one in certificates(name, pem)? {
        store.add(one).map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(Arc::new(store))
}

impl Identity {
    fn certified(&self) -> Result<CertifiedKey, String> {
        let name = &self.name;
        let chain = certificates(name, &self.chain)?;
        let encrypted = |pem: &[u8]| pem.windows(9).any(|some| some == b"ENCRYPTED");
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| {
            if encrypted(&self.key) {
                format!("{name}: its key has a password, which nobody could be asked for")
            } else {
                format!("{name}: there is no private key in it (PEM)")
            }
        })?;
        CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            Error::InconsistentKeys(_) => {
                format!("{name}: the key is not that of the first certificate")
            }
            error => format!("{name}: {error}"),
        })
    }
}

fn serving(given: ToClients) -> Result<ServerConfig, String> {
    let identities = given.identities.iter().map(Identity::certified);
    let identities = identities.map(|one| one.map(Arc::new));
    let by_name = ByName(identities.collect::<Result<_, _>>()?);
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match &given.clients {
        None => builder.with_no_client_auth(),
        Some((signers, required)) => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(authorities(signers)?, provider());
            let verifier = if *required {
                verifier
            } else {
                verifier.allow_unauthenticated()
            };
            let verifier = verifier.build();
            builder.with_client_cert_verifier(
                verifier.map_err(|error| format!("{}: {error}", signers.name))?,
            )
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(by_name));
    config.key_log = Arc::new(KeyLogFile::new());
    Ok(config)
}

/// Certificates, one of which is shown.
#[derive(Debug)]
struct ByName(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let wanted = hello.server_name().map(ServerName::try_from);
        let named = wanted.and_then(Result::ok).and_then(|name| {
            self.0.iter().find(|one| {
                let own = one.end_entity_cert().and_then(ParsedCertificate::try_from);
                own.is_ok_and(|own| rustls::client::verify_server_name(&own, &name).is_ok())
            })
        });
        named.or(self.0.first()).cloned()
    }
}

fn asking(given: ToServers) -> Result<ClientConfig, String> {
    let webpki = |signers: &Authorities| {
        WebPkiServerVerifier::builder_with_provider(authorities(signers)?, provider())
            .build()
            .map_err(|error| format!("{}: {error}", signers.name))
    };
    let verifier: Arc<dyn ServerCertVerifier> = match &given.verify {
        Verify::Full(signers) => webpki(signers)?,
        Verify::Authority(signers) => Arc::new(AnyName(webpki(signers)?)),
        Verify::None => Arc::new(Anyone(provider())),
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match &given.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            // What is wrong with it is told in our words.
            identity.certified()?;
            let chain = certificates(&identity.name, &identity.chain)?;
            let key = PrivateKeyDer::from_pem_slice(&identity.key)
                .map_err(|error| format!("{}: {error}", identity.name))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| format!("{}: {error}", identity.name))?
        }
    };
    config.key_log = Arc::new(KeyLogFile::new());
    Ok(config)
}

/// The authority counts, the name does not: as ZooKeeper's ssl.hostnameVerification=false.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // The name is what is looked at last.
        match self
            .0
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Any certificate does; only that its owner has the key is looked at.
struct Anyone(Arc<CryptoProvider>);

impl fmt::Debug for Anyone {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Anyone")
    }
}

impl ServerCertVerifier for Anyone {
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
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
