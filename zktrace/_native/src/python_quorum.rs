//! Rows of the tables `quorum` and `elections` made in Python, to any sink; for tests only.

use pyo3::prelude::*;

use crate::events::{ConnInfo, Election, EventSink, Quorum, SubOp};
use crate::python_tables::{sub_ops, subs, Reader};

pub(crate) fn quorum(
    mut read: Reader<'_>,
    (seq, ts_ns, conn): (i64, i64, &ConnInfo),
    sink: &mut dyn EventSink,
) -> PyResult<()> {
    let name: String = read.get()?;
    let direction: String = read.get()?;
    let (zxid, bytes) = (read.get()?, read.get()?);
    let (session, cxid) = (read.get()?, read.get()?);
    let txn: Option<String> = read.get()?;
    let path: Option<Vec<u8>> = read.get()?;
    let error = read.get()?;
    let (sid, epoch, timeout_ms) = (read.get()?, read.get()?, read.get()?);
    let (valid, sessions, digest) = (read.get()?, read.get()?, read.get()?);
    let sub = subs(&read.any()?)?;
    let sub: Option<Vec<SubOp<'_>>> = sub.as_deref().map(sub_ops);
    let (snapshot_bytes, snapshot_nodes): (Option<i64>, Option<i64>) = (read.get()?, read.get()?);
    let config: Option<Vec<u8>> = read.get()?;
    let late: Option<bool> = read.get()?;
    let txn_hash: Option<i64> = read.get()?;
    sink.quorum(&Quorum {
        seq,
        ts_ns,
        conn,
        // a number out of the range whose names are remembered
        kind: -1,
        name: &name,
        to_leader: direction == "to_leader",
        zxid,
        bytes,
        session,
        cxid,
        txn: txn.as_deref().map(|name| (i32::MAX, name)),
        path: path.as_deref(),
        error,
        sid,
        epoch,
        timeout_ms,
        valid,
        sessions,
        digest,
        sub: sub.as_deref(),
        snapshot: snapshot_bytes.zip(snapshot_nodes),
        config: config.as_deref(),
        late: late == Some(true),
        txn_hash,
    });

    Ok(())
}

pub(crate) fn election(
    mut read: Reader<'_>,
    (seq, ts_ns, conn): (i64, i64, &ConnInfo),
    sink: &mut dyn EventSink,
) -> PyResult<()> {
    let name: String = read.get()?;
    let direction: String = read.get()?;
    let sid = read.get()?;
    let address: Option<Vec<u8>> = read.get()?;
    let state: Option<String> = read.get()?;
    sink.election(&Election {
        seq,
        ts_ns,
        conn,
        initial: name == "initial",
        from_opener: direction == "from_opener",
        sid,
        address: address.as_deref(),
        state: state.as_deref(),
        leader: read.get()?,
        zxid: read.get()?,
        election_epoch: read.get()?,
        peer_epoch: read.get()?,
        version: read.get()?,
        bytes: read.get()?,
    });

    Ok(())
}
