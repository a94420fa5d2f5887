//! The two sides of a new connection: TLS with the client, where it is spoken, and a server that accepts.
//!
//! A server that does not agree on TLS within the time in which it has to accept is one that did not accept. Who failed, and why,
//! is told (`notices`).

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use rustls::Error;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::serve::Shared;
use super::tls::Tls;
use super::upstreams::Upstream;
use super::wire::Wire;
use super::{add, WhenDown};

/// How long a client may take to agree on TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long to wait before servers of which none accepts are tried again.
pub const DOWN_PAUSE: Duration = Duration::from_millis(250);

/// The client's side; None: there is no TLS with it, and nobody to relay for.
pub async fn greet(
    shared: &Shared,
    tls: &Tls,
    client: TcpStream,
    address: SocketAddr,
) -> Option<Wire> {
    let Some(session) = tls.serve() else {
        return Some(Wire::Plain(client));
    };
    let made = async { Wire::secured(client, session.map_err(io::Error::other)?).await };
    let why = match timeout(HANDSHAKE, made).await {
        Ok(Ok(wire)) => return Some(wire),
        Ok(Err(error)) => told(&error),
        Err(_) => format!("nothing came of it within {} s", HANDSHAKE.as_secs()),
    };
    add(&shared.counters.tls_failures, 1);
    let line = format!("TLS with client {}: {why}", canonical(address));
    shared.notices.push(line);
    None
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What went wrong, in words for whoever has to mend it.
fn told(error: &io::Error) -> String {
    let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref());
    match (of_tls, error.kind()) {
        (Some(Error::InvalidMessage(_)), _) => "what it sent is not TLS".to_owned(),
        (_, ErrorKind::UnexpectedEof) => "it closed the connection within the handshake".to_owned(),
        (_, ErrorKind::ConnectionReset) => {
            "it reset the connection within the handshake".to_owned()
        }
        _ => error.to_string(),
    }
}

/// A server, as soon as one accepts: at once, or for as long as the client waits.
pub async fn reach(
    shared: &Shared,
    tls: &Tls,
    order: &[Upstream],
    client: &Wire,
) -> Option<(Wire, Upstream)> {
    loop {
        let found = connect(shared, tls, order).await;
        if found.is_some() || shared.when_down != WhenDown::Accept {
            return found;
        }
        let left = async {
            // What it sends is left where it is; its end is seen only where it has sent nothing.
            if !matches!(client.socket().peek(&mut [0]).await, Ok(0) | Err(_)) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = sleep(DOWN_PAUSE) => {}
            () = left => return None,
        }
    }
}

/// The first server that accepts.
pub async fn connect(shared: &Shared, tls: &Tls, order: &[Upstream]) -> Option<(Wire, Upstream)> {
    for upstream in order {
        match timeout(shared.connect_timeout, one(tls, upstream)).await {
            Ok(Ok(server)) => return Some((server, upstream.clone())),
            Ok(Err(error)) => {
                let of_tls = error.kind() == ErrorKind::InvalidData
                    || error.kind() == ErrorKind::UnexpectedEof;
                if of_tls {
                    let why = told(&error);
                    let line = format!("TLS with server {}: {why}", upstream.address);
                    shared.notices.push(line);
                }
            }
            Err(_) => {}
        }
        add(&shared.counters.upstream_failures, 1);
    }
    None
}

/// A connection to that server.
pub async fn one(tls: &Tls, upstream: &Upstream) -> io::Result<Wire> {
    let socket = TcpStream::connect(upstream.address).await?;
    match tls.ask(&upstream.name) {
        None => Ok(Wire::Plain(socket)),
        Some(session) => {
            let session = session.map_err(|why| io::Error::new(ErrorKind::InvalidData, why))?;
            Wire::secured(socket, session).await
        }
    }
}
