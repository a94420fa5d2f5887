//! Lines of quorum packets and election messages, the bytes that `zktrace/export/jsonl.py` defines.

use crate::events::{Election, Quorum};
use crate::json::{member, name, path, sub};
use crate::json_text::{boolean, hex, session, text};
use crate::siphash::hash_session;

/// What only some types of packets have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PacketKey {
    Session,
    Cxid,
    TxnType,
    Path,
    Error,
    Sid,
    Epoch,
    TimeoutMs,
    Valid,
    Sessions,
    Sub,
    SnapshotBytes,
    SnapshotNodes,
}

const KEYS: [(&str, PacketKey); 13] = [
    ("session", PacketKey::Session),
    ("cxid", PacketKey::Cxid),
    ("txn_type", PacketKey::TxnType),
    ("path", PacketKey::Path),
    ("error", PacketKey::Error),
    ("sid", PacketKey::Sid),
    ("epoch", PacketKey::Epoch),
    ("timeout_ms", PacketKey::TimeoutMs),
    ("valid", PacketKey::Valid),
    ("sessions", PacketKey::Sessions),
    ("sub", PacketKey::Sub),
    ("snapshot_bytes", PacketKey::SnapshotBytes),
    ("snapshot_nodes", PacketKey::SnapshotNodes),
];

impl PacketKey {
    pub fn parse(key: &str) -> Option<Self> {
        let found = KEYS.iter().find(|(known, _)| *known == key)?;
        Some(found.1)
    }
}

/// The members after `flow`, and the end of the line.
pub fn quorum(out: &mut Vec<u8>, row: &Quorum<'_>, keys: &[PacketKey], hash: Option<&[u8; 16]>) {
    out.extend_from_slice(b",\"type\":");
    text(out, row.name);
    out.extend_from_slice(b",\"direction\":");
    text(out, row.direction());
    out.extend_from_slice(b",\"zxid\":");
    hex(out, row.zxid);
    member(out, b",\"bytes\":", row.bytes);
    for key in keys {
        match key {
            PacketKey::Session => {
                out.extend_from_slice(b",\"session\":");
                let id = match hash {
                    Some(key) => row.session.map(|id| hash_session(key, id)),
                    None => row.session,
                };
                session(out, id);
            }
            PacketKey::Cxid => member(out, b",\"cxid\":", row.cxid),
            PacketKey::TxnType => {
                out.extend_from_slice(b",\"txn_type\":");
                name(out, row.txn.map(|(_, name)| name));
            }
            PacketKey::Path => {
                out.extend_from_slice(b",\"path\":");
                path(out, row.path);
            }
            PacketKey::Error => member(out, b",\"error\":", row.error),
            PacketKey::Sid => member(out, b",\"sid\":", row.sid),
            PacketKey::Epoch => member(out, b",\"epoch\":", row.epoch),
            PacketKey::TimeoutMs => member(out, b",\"timeout_ms\":", row.timeout_ms),
            PacketKey::Valid => {
                out.extend_from_slice(b",\"valid\":");
                boolean(out, row.valid);
            }
            PacketKey::Sessions => member(out, b",\"sessions\":", row.sessions),
            PacketKey::Sub => {
                out.extend_from_slice(b",\"sub\":");
                sub(out, row.sub);
            }
            PacketKey::SnapshotBytes => {
                let bytes = row.snapshot.map(|snapshot| snapshot.0);
                member(out, b",\"snapshot_bytes\":", bytes);
            }
            PacketKey::SnapshotNodes => {
                let nodes = row.snapshot.map(|snapshot| snapshot.1);
                member(out, b",\"snapshot_nodes\":", nodes);
            }
        }
    }
    out.extend_from_slice(b"}\n");
}

/// The members after `flow`, and the end of the line.
pub fn election(out: &mut Vec<u8>, row: &Election<'_>) {
    out.extend_from_slice(b",\"type\":");
    text(out, row.kind());
    out.extend_from_slice(b",\"direction\":");
    text(out, row.direction());
    member(out, b",\"sid\":", row.sid);
    out.extend_from_slice(b",\"address\":");
    path(out, row.address);
    out.extend_from_slice(b",\"state\":");
    name(out, row.state);
    member(out, b",\"leader\":", row.leader);
    out.extend_from_slice(b",\"zxid\":");
    hex(out, row.zxid);
    member(out, b",\"election_epoch\":", row.election_epoch);
    member(out, b",\"peer_epoch\":", row.peer_epoch);
    member(out, b",\"version\":", row.version);
    member(out, b",\"bytes\":", Some(row.bytes));
    out.extend_from_slice(b"}\n");
}
