//! Certificates and keys from Python: what `zktrace_proxy.native` has read of files.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::relay::tls::{Authorities, Identity, Tls, ToClients, ToServers, Verify};

/// What it is called, its chain, its key.
type Shown = (String, Vec<u8>, Vec<u8>);
/// What they are called, PEM.
type Signers = (String, Vec<u8>);
/// What is shown; who signs clients' certificates, and whether they must have one.
pub type Clients = (Vec<Shown>, Option<(Signers, bool)>);
/// full, ca or none; who signs; what is shown.
pub type Servers = (String, Option<Signers>, Option<Shown>);

fn identity((name, chain, key): Shown) -> Identity {
    Identity { name, chain, key }
}

fn authorities((name, pem): Signers) -> Authorities {
    Authorities { name, pem }
}

pub fn tls(clients: Option<Clients>, servers: Option<Servers>) -> PyResult<Tls> {
    let clients = clients.map(|(shown, signers)| ToClients {
        identities: shown.into_iter().map(identity).collect(),
        clients: signers.map(|(signers, required)| (authorities(signers), required)),
    });
    let servers = servers.map(|(verify, signers, shown)| {
        let verify = match (verify.as_str(), signers) {
            ("full", Some(signers)) => Verify::Full(authorities(signers)),
            ("ca", Some(signers)) => Verify::Authority(authorities(signers)),
            ("none", _) => Verify::None,
            _ => return Err(PyValueError::new_err(format!("not known: {verify}"))),
        };
        Ok(ToServers {
            verify,
            identity: shown.map(identity),
        })
    });
    Tls::new(clients, servers.transpose()?).map_err(PyValueError::new_err)
}
