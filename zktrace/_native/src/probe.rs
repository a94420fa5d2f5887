//! First bytes of a connection: which protocol is this? `zktrace/stream/probe.py` is the reference and cites the sources.

use crate::schema::{int, long, Schema};

pub const PASSWORD_MAX: i32 = 64;
const FOLLOWERINFO: i32 = 11;
const OBSERVERINFO: i32 = 16;
pub const LEARNER_INFO_SIZES: [i32; 5] = [-1, 0, 8, 12, 20];
/// QuorumAuth.QUORUM_AUTH_MAGIC_NUMBER as it is on the wire.
pub const QUORUM_SASL: [u8; 8] = [0x5f, 0x24, 0x35, 0x01, 0x35, 0x01, 0xed, 0xcc];
pub const ELECTION_VERSIONS: [i64; 2] = [-65536, -65535];
const OLD_SID_MAX: i64 = 255;
pub const NOTIFICATION_MAX: i32 = 524_288;

/// What first bytes can be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    More,
    Connect,
    Word,
    Quorum,
    Election,
    Tls,
    Unknown,
}

/// Judges the first bytes that the opener of a connection sent; More where they do not suffice yet.
pub fn probe(data: &[u8], schema: &Schema) -> Verdict {
    let answers = [
        (Verdict::Word, word(data, schema)),
        (Verdict::Connect, connect(data)),
        (Verdict::Tls, tls(data)),
        (Verdict::Quorum, quorum(data)),
        (Verdict::Election, election(data)),
    ];
    for (verdict, answer) in answers {
        if answer == Some(true) {
            return verdict;
        }
    }
    if answers.iter().any(|(_, answer)| answer.is_none()) {
        Verdict::More
    } else {
        Verdict::Unknown
    }
}

/// Bytes that ClickHouse Keeper's dialects put after a ConnectRequest's version.
pub fn keeper_flags(version: i32) -> usize {
    match version {
        11 => 1,
        12..=41 => 2,
        _ => 0,
    }
}

/// Bytes that a ConnectRequest has beyond its length field: Keeper's length does not count its flags.
pub fn handshake_extra(data: &[u8]) -> usize {
    let flags = keeper_flags(int(data, 4).unwrap_or(0));
    let Some(size) = int(data, 28 + flags) else {
        return 0;
    };
    let body = 28 + size.max(0);
    match int(data, 0) {
        Some(length) if (body..=body + 1).contains(&length) => flags,
        _ => 0,
    }
}

/// Whether a ConnectRequest, and nothing else that clients or servers send, begins here: stricter than what a server
/// takes, and only once all of it is there.
pub fn is_whole_connect(data: &[u8]) -> bool {
    whole_connect(data).unwrap_or(false)
}

fn whole_connect(data: &[u8]) -> Option<bool> {
    let (length, version) = (int(data, 0)?, int(data, 4)?);
    let flags = keeper_flags(version);
    let (timeout, size) = (int(data, 16 + flags)?, int(data, 28 + flags)?);
    let password = size.max(0) as usize;
    let end = 32 + flags + password;
    let dialect = version == 10 || flags > 0;
    if (version != 0 && !dialect)
        || ![-1, 0, 16].contains(&size)
        || timeout <= 0
        || *data.get(8 + flags)? > 0x7f
    {
        return Some(false);
    }
    // an xid of a request looks like a version: of the dialects only what they really send
    let given = data.get(8..8 + flags)?;
    if dialect
        && (size != 16 || handshake_extra(data) != flags || given.iter().any(|flag| *flag > 1))
    {
        return Some(false);
    }
    let counted = if handshake_extra(data) > 0 { 0 } else { flags };
    let with_flag = length == (29 + password + counted) as i32;
    if with_flag {
        return Some(*data.get(end)? <= 1);
    }
    Some(data.len() >= end)
}

/// Whether a ConnectRequest can begin here of which the snap length cut the rest.
pub fn is_cut_connect(data: &[u8]) -> bool {
    let (Some(length), Some(version), Some(timeout)) = (int(data, 0), int(data, 4), int(data, 16))
    else {
        return false;
    };
    (28..=29 + PASSWORD_MAX).contains(&length)
        && version == 0
        && timeout > 0
        && data.get(8).is_some_and(|byte| *byte <= 0x7f)
}

/// Whether a length and a notification may begin at `pos`; None where that takes more bytes.
pub fn is_notification(data: &[u8], pos: usize) -> Option<bool> {
    let length = int(data, pos)?;
    let state = int(data, pos + 4)?;
    let fits = length == 28 || length == 40 || (44..=NOTIFICATION_MAX).contains(&length);
    Some(fits && (0..=3).contains(&state))
}

fn zeros(data: &[u8]) -> Option<bool> {
    if data.iter().all(|byte| *byte == 0) {
        None
    } else {
        Some(false)
    }
}

fn word(data: &[u8], schema: &Schema) -> Option<bool> {
    match data.get(..4) {
        Some(first) => Some(schema.word(first).is_some()),
        None if schema.begins_word(data) => None,
        None => Some(false),
    }
}

fn connect(data: &[u8]) -> Option<bool> {
    let Some(length) = int(data, 0) else {
        return zeros(data);
    };
    if !(28..=30 + PASSWORD_MAX).contains(&length) {
        return Some(false);
    }
    let extra = keeper_flags(int(data, 4)?);
    let size = int(data, 28 + extra)?;
    if !(-1..=PASSWORD_MAX).contains(&size) {
        return Some(false);
    }
    let body = 28 + size.max(0);
    Some(body <= length && length <= body + 1 + extra as i32)
}

fn tls(data: &[u8]) -> Option<bool> {
    // RFC 8446, 5.1 and 4: a record of type handshake holding a ClientHello
    let Some(first) = data.first_chunk::<6>() else {
        let start = data.get(..2).unwrap_or(data);
        return if [0x16, 0x03].starts_with(start) {
            None
        } else {
            Some(false)
        };
    };
    let [kind, major, minor, _, _, hello] = *first;
    Some(kind == 0x16 && major == 3 && minor <= 4 && hello == 1)
}

fn quorum(data: &[u8]) -> Option<bool> {
    let first = data.get(..8).unwrap_or(data);
    if QUORUM_SASL.starts_with(first) {
        return if data.len() >= 8 { Some(true) } else { None };
    }
    let Some(kind) = int(data, 0) else {
        return zeros(data);
    };
    if kind != FOLLOWERINFO && kind != OBSERVERINFO {
        return Some(false);
    }
    Some(LEARNER_INFO_SIZES.contains(&int(data, 12)?))
}

fn election(data: &[u8]) -> Option<bool> {
    let Some(first) = long(data, 0) else {
        return match data.first() {
            None | Some(0xff | 0) => None,
            Some(_) => Some(false),
        };
    };
    if ELECTION_VERSIONS.contains(&first) {
        return Some(true);
    }
    if !(0..=OLD_SID_MAX).contains(&first) {
        return Some(false);
    }
    is_notification(data, 8)
}
