//! Moves a session: connects to another server in its client's name, which makes that server its owner.
//!
//! The old server then answers what comes over the old connection with SessionMoved, and the client connects again
//! (org.apache.zookeeper.server.PrepRequestProcessor, org.apache.zookeeper.server.SessionTrackerImpl.checkSession). The new
//! connection is held until the old one has ended, since its end would not end the session, but leave it without an owner.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::decisions::Decision;
use super::dial;
use super::serve::Shared;
use super::tap::{now_ns, TapFlow};
use super::tls::Tls;
use super::track::{Session, Track};
use super::upstreams::Upstream;
use super::wire::Wire;

/// How long the other server may take.
const WAIT: Duration = Duration::from_secs(10);

/// Begins; what is returned holds the session there.
pub fn begin(
    shared: &Rc<Shared>,
    flow: &TapFlow,
    track: &Track,
    others: &[Upstream],
    tls: Tls,
) -> Option<oneshot::Sender<()>> {
    let [client, server] = flow.ends();
    let session = track.session;
    let (held, release) = oneshot::channel();
    let (shared, others) = (Rc::clone(shared), others.to_vec());
    spawn_local(async move {
        let taken = match session {
            Some(session) => take(session, &others, &tls).await,
            None => Err("there is no session to move".to_owned()),
        };
        let detail = match &taken {
            Ok((_, to)) => format!("{to} has taken the session over"),
            Err(why) => why.clone(),
        };
        shared.decisions.push(Decision {
            ts_ns: now_ns(),
            rule: 0,
            action: "move".to_owned(),
            client,
            server,
            session: session.map(|session| session.id),
            opcode: None,
            path: None,
            xid: None,
            detail,
        });
        if let Ok((_socket, _)) = taken {
            // Its sender is never used, but goes with the old connection.
            let _ = release.await;
        }
    });
    Some(held)
}

async fn take(
    session: Session,
    others: &[Upstream],
    tls: &Tls,
) -> Result<(Wire, SocketAddr), String> {
    let mut why = "there is no other server to move the session to".to_owned();
    for upstream in others {
        let other = upstream.address;
        match timeout(WAIT, ask(session, upstream, tls)).await {
            Ok(Ok(socket)) => return Ok((socket, other)),
            Ok(Err(error)) => why = format!("{other} did not take the session: {error}"),
            Err(_) => why = format!("{other} did not take the session in time"),
        }
    }
    Err(why)
}

async fn ask(session: Session, other: &Upstream, tls: &Tls) -> std::io::Result<Wire> {
    let mut socket = dial::one(tls, other).await?;
    // protocolVersion, lastZxidSeen, timeOut, sessionId, passwd, readOnly; any server is recent enough.
    let body = [
        &0_i32.to_be_bytes()[..],
        &0_i64.to_be_bytes(),
        &session.timeout_ms.to_be_bytes(),
        &session.id.to_be_bytes(),
        &16_i32.to_be_bytes(),
        &session.password,
        &[0],
    ]
    .concat();
    let mut ask = [&(body.len() as i32).to_be_bytes()[..], &body].concat();
    while !ask.is_empty() {
        poll_fn(|cx| socket.poll_write_ready(cx)).await?;
        match socket.try_write(&ask) {
            Ok(count) => drop(ask.drain(..count)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    poll_fn(|cx| socket.poll_flushed(cx)).await?;
    let mut track = Track::default();
    let mut answer = [0; 256];
    loop {
        match poll_fn(|cx| socket.poll_read(cx, &mut answer)).await? {
            0 => return Err(std::io::Error::other("it closed the connection")),
            count if track.pass(1, &answer[..count]) => return Ok(socket),
            _ if !track.first(1) => return Err(std::io::Error::other("it knows no such session")),
            _ => {}
        }
    }
}
