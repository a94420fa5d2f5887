//! Event rows as JSON lines, the bytes that `zktrace/export/jsonl.py` defines.
//!
//! That module is the reference, and a test compares every kind of row; which keys an op has and the names
//! of errors come from there too, as text (`zktrace/export/form.py`), so that nothing is written down twice. Lines
//! collect in a buffer that the caller takes. Knows nothing of Python.

use crate::events::{
    Anomaly, ConnInfo, Connection, Election, EventSink, Exchange, FourLetter, Quorum, RawStat,
    Stat, SubOp, WatchEvent, Watches,
};
use crate::intern::lossy;
use crate::json_quorum::{self, PacketKey};
use crate::json_text::{boolean, hex, latency_us, number, session, text, Nullable};
use crate::siphash::hash_session;

/// What only some ops have, in the order of the keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Key {
    Flags,
    Mode,
    Version,
    Ttl,
    DataLength,
    Children,
    Stat,
    CreatedPath,
    Sub,
    Watches,
    RequestedTimeoutMs,
    TimeoutMs,
    LastZxidSeen,
    ReadOnly,
    ProtocolVersion,
}

const KEYS: [(&str, Key); 15] = [
    ("flags", Key::Flags),
    ("mode", Key::Mode),
    ("version", Key::Version),
    ("ttl", Key::Ttl),
    ("data_length", Key::DataLength),
    ("children", Key::Children),
    ("stat", Key::Stat),
    ("created_path", Key::CreatedPath),
    ("sub", Key::Sub),
    ("watches", Key::Watches),
    ("requested_timeout_ms", Key::RequestedTimeoutMs),
    ("timeout_ms", Key::TimeoutMs),
    ("last_zxid_seen", Key::LastZxidSeen),
    ("read_only", Key::ReadOnly),
    ("protocol_version", Key::ProtocolVersion),
];

/// Which keys ops have, and names of errors: a line is `op <name> <key>,<key>...` `quorum <type> <key>,<key>...`
/// or `error <code> <name>`.
#[derive(Default)]
pub struct Form {
    /// By name, ascending.
    ops: Vec<(String, Vec<Key>)>,
    /// By name of the type, ascending.
    packets: Vec<(String, Vec<PacketKey>)>,
    /// By code, ascending; the name is written as a JSON string.
    errors: Vec<(i32, Vec<u8>)>,
}

impl Form {
    pub fn parse(description: &str) -> Result<Self, String> {
        let mut form = Form::default();
        for line in description.lines() {
            let wrong = || format!("not a line of the form: {line}");
            let mut words = line.splitn(3, ' ');
            let (kind, name, rest) = (words.next(), words.next(), words.next());
            let (name, rest) = name.zip(rest).ok_or_else(wrong)?;
            match kind {
                Some("op") => {
                    let keys = rest.split(',').map(|key| {
                        let known = KEYS.iter().find(|(known, _)| *known == key);
                        known.map(|(_, key)| *key).ok_or_else(wrong)
                    });
                    form.ops
                        .push((name.to_owned(), keys.collect::<Result<_, _>>()?));
                }
                Some("quorum") => {
                    let keys = rest
                        .split(',')
                        .map(|key| PacketKey::parse(key).ok_or_else(wrong));
                    form.packets
                        .push((name.to_owned(), keys.collect::<Result<_, _>>()?));
                }
                Some("error") => {
                    let mut quoted = Vec::new();
                    text(&mut quoted, rest);
                    let code = name.parse().map_err(|_| wrong())?;
                    form.errors.push((code, quoted));
                }
                _ => return Err(wrong()),
            }
        }
        form.ops.sort_by(|a, b| a.0.cmp(&b.0));
        form.packets.sort_by(|a, b| a.0.cmp(&b.0));
        form.errors.sort_by_key(|(code, _)| *code);
        Ok(form)
    }

    fn keys(&self, op: &str) -> &[Key] {
        match self.ops.binary_search_by(|(name, _)| name.as_str().cmp(op)) {
            Ok(at) => self.ops.get(at).map_or(&[], |(_, keys)| keys),
            Err(_) => &[],
        }
    }

    fn packet_keys(&self, name: &str) -> &[PacketKey] {
        let found = self
            .packets
            .binary_search_by(|(known, _)| known.as_str().cmp(name));
        match found {
            Ok(at) => self.packets.get(at).map_or(&[], |(_, keys)| keys),
            Err(_) => &[],
        }
    }

    /// `,"error":<code>,"error_name":<name>`; a code nobody knows is named by its number.
    fn error(&self, out: &mut Vec<u8>, error: Option<i32>) {
        out.extend_from_slice(b",\"error\":");
        number(out, error);
        out.extend_from_slice(b",\"error_name\":");
        let Some(code) = error else {
            out.extend_from_slice(b"null");
            return;
        };
        match self.errors.binary_search_by_key(&code, |(known, _)| *known) {
            Ok(at) => {
                if let Some((_, name)) = self.errors.get(at) {
                    out.extend_from_slice(name);
                }
            }
            Err(_) => {
                out.push(b'"');
                number(out, error);
                out.push(b'"');
            }
        }
    }
}

/// Connections whose texts are remembered (direct mapped by number).
const CONN_CACHE: usize = 1024;

struct ConnText {
    id: i64,
    /// `"flow":"client>server"`
    flow: Vec<u8>,
    /// `"client":"...","server":"..."`
    ends: Vec<u8>,
}

impl ConnText {
    fn new(conn: &ConnInfo) -> Self {
        let (client, server) = (conn.client, conn.server);
        ConnText {
            id: conn.id,
            flow: format!("\"flow\":\"{client}>{server}\"").into_bytes(),
            ends: format!("\"client\":\"{client}\",\"server\":\"{server}\"").into_bytes(),
        }
    }
}

/// Writes a line per row.
pub struct JsonSink {
    form: Form,
    hash_key: Option<[u8; 16]>,
    conns: Box<[Option<ConnText>; CONN_CACHE]>,
    out: Vec<u8>,
    lines: usize,
}

impl JsonSink {
    /// `hash_key`: session ids are replaced by their hashes under it.
    pub fn new(form: Form, hash_key: Option<[u8; 16]>) -> Self {
        JsonSink {
            form,
            hash_key,
            conns: Box::new([const { None }; CONN_CACHE]),
            out: Vec::new(),
            lines: 0,
        }
    }

    /// Lines that wait to be taken.
    pub fn lines(&self) -> usize {
        self.lines
    }

    /// The lines since the last call; the buffer stays for the next ones after `clear`.
    pub fn bytes(&self) -> &[u8] {
        &self.out
    }

    pub fn clear(&mut self) {
        self.out.clear();
        self.lines = 0;
    }

    fn session(&mut self, id: Option<i64>) {
        let id = match self.hash_key {
            Some(key) => id.map(|id| hash_session(&key, id)),
            None => id,
        };
        session(&mut self.out, id);
    }

    /// `{"kind":"<kind>","ts_ns":<ts>,"flow":<flow>`
    fn start(&mut self, kind: &str, ts_ns: i64, conn: &ConnInfo) {
        self.lines += 1;
        let out = &mut self.out;
        out.extend_from_slice(b"{\"kind\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(b"\",\"ts_ns\":");
        number(out, Some(ts_ns));
        out.push(b',');
        out.extend_from_slice(&remembered(&mut self.conns, conn).flow);
    }

    /// `,"client":...,"server":...`
    fn ends(&mut self, conn: &ConnInfo) {
        self.out.push(b',');
        self.out
            .extend_from_slice(&remembered(&mut self.conns, conn).ends);
    }

    fn extra(&mut self, key: Key, row: &Exchange<'_>) {
        let out = &mut self.out;
        let connect = row.connect.copied().unwrap_or_default();
        match key {
            Key::Flags => member(out, b",\"flags\":", row.flags),
            Key::Mode => member(out, b",\"mode\":", row.mode),
            Key::Version => member(out, b",\"version\":", row.version),
            Key::Ttl => member(out, b",\"ttl\":", row.ttl),
            Key::DataLength => member(out, b",\"data_length\":", row.data_length),
            Key::Children => member(out, b",\"children\":", row.children),
            Key::Stat => {
                out.extend_from_slice(b",\"stat\":");
                let decoded = row.stat.map(RawStat::decode);
                stat(out, decoded.as_ref(), self.hash_key.as_ref());
            }
            Key::CreatedPath => {
                out.extend_from_slice(b",\"created_path\":");
                path(out, row.created_path);
            }
            Key::Sub => {
                out.extend_from_slice(b",\"sub\":");
                sub(out, row.sub);
            }
            Key::Watches => {
                out.extend_from_slice(b",\"watches\":");
                watches(out, row.watches);
            }
            Key::RequestedTimeoutMs => member(
                out,
                b",\"requested_timeout_ms\":",
                connect.requested_timeout_ms,
            ),
            Key::TimeoutMs => member(out, b",\"timeout_ms\":", connect.timeout_ms),
            Key::LastZxidSeen => {
                out.extend_from_slice(b",\"last_zxid_seen\":");
                hex(out, connect.last_zxid_seen);
            }
            Key::ReadOnly => {
                out.extend_from_slice(b",\"read_only\":");
                boolean(out, connect.read_only);
            }
            Key::ProtocolVersion => {
                member(out, b",\"protocol_version\":", connect.protocol_version);
            }
        }
    }
}

fn remembered<'a>(conns: &'a mut [Option<ConnText>; CONN_CACHE], conn: &ConnInfo) -> &'a ConnText {
    // An array of that very length: the index cannot be out of bounds.
    let slot = &mut conns[conn.id as usize % CONN_CACHE];
    match slot {
        Some(known) if known.id == conn.id => {}
        _ => *slot = Some(ConnText::new(conn)),
    }
    slot.get_or_insert_with(|| ConnText::new(conn))
}

#[inline]
pub(crate) fn member<N: Nullable>(out: &mut Vec<u8>, key: &[u8], value: N) {
    out.extend_from_slice(key);
    number(out, value);
}

pub(crate) fn path(out: &mut Vec<u8>, raw: Option<&[u8]>) {
    match raw {
        Some(raw) => text(out, &lossy(raw)),
        None => out.extend_from_slice(b"null"),
    }
}

pub(crate) fn name(out: &mut Vec<u8>, value: Option<&str>) {
    match value {
        Some(value) => text(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

/// Highest bits of a Stat's ephemeralOwner that is none: a container, a TTL (EphemeralType).
const CONTAINER: i64 = i64::MIN;
const TTL_BYTE: i64 = 0xff;

fn stat(out: &mut Vec<u8>, stat: Option<&Stat>, hash_key: Option<&[u8; 16]>) {
    let Some(stat) = stat else {
        out.extend_from_slice(b"null");
        return;
    };
    let mut owner = stat.ephemeral_owner;
    if let Some(key) = hash_key {
        if owner != CONTAINER && (owner >> 56) & 0xff != TTL_BYTE {
            owner = hash_session(key, owner);
        }
    }
    out.extend_from_slice(b"{\"czxid\":");
    hex(out, Some(stat.czxid));
    out.extend_from_slice(b",\"mzxid\":");
    hex(out, Some(stat.mzxid));
    member(out, b",\"ctime\":", Some(stat.ctime));
    member(out, b",\"mtime\":", Some(stat.mtime));
    member(out, b",\"version\":", Some(stat.version));
    member(out, b",\"cversion\":", Some(stat.cversion));
    member(out, b",\"aversion\":", Some(stat.aversion));
    out.extend_from_slice(b",\"ephemeral_owner\":");
    session(out, Some(owner));
    member(out, b",\"data_length\":", Some(stat.data_length));
    member(out, b",\"num_children\":", Some(stat.num_children));
    out.extend_from_slice(b",\"pzxid\":");
    hex(out, Some(stat.pzxid));
    out.push(b'}');
}

pub(crate) fn sub(out: &mut Vec<u8>, ops: Option<&[SubOp<'_>]>) {
    let Some(ops) = ops else {
        out.extend_from_slice(b"null");
        return;
    };
    out.push(b'[');
    for (i, op) in ops.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"op\":");
        name(out, op.op);
        out.extend_from_slice(b",\"path\":");
        path(out, op.path);
        member(out, b",\"error\":", op.error);
        out.push(b'}');
    }
    out.push(b']');
}

fn watches(out: &mut Vec<u8>, counts: Option<&Watches>) {
    let Some(counts) = counts else {
        out.extend_from_slice(b"null");
        return;
    };
    member(out, b"{\"data\":", counts.data);
    member(out, b",\"exist\":", counts.exist);
    member(out, b",\"child\":", counts.child);
    member(out, b",\"persistent\":", counts.persistent);
    member(
        out,
        b",\"persistent_recursive\":",
        counts.persistent_recursive,
    );
    out.push(b'}');
}

impl EventSink for JsonSink {
    fn exchange(&mut self, row: &Exchange<'_>) {
        self.start("exchange", row.ts_ns, row.conn);
        let out = &mut self.out;
        out.extend_from_slice(b",\"op\":");
        name(out, row.op.map(|(_, name)| name));
        member(out, b",\"opcode\":", row.op.map(|(code, _)| code));
        member(out, b",\"xid\":", row.xid);
        self.ends(row.conn);
        self.out.extend_from_slice(b",\"session\":");
        self.session(row.session);
        let out = &mut self.out;
        out.extend_from_slice(b",\"path\":");
        path(out, row.path);
        out.extend_from_slice(b",\"watch\":");
        boolean(out, row.watch);
        self.form.error(out, row.error);
        out.extend_from_slice(b",\"zxid\":");
        hex(out, row.zxid);
        out.extend_from_slice(b",\"latency_us\":");
        latency_us(out, row.latency_ns);
        member(out, b",\"request_bytes\":", row.request_bytes);
        member(out, b",\"reply_bytes\":", row.reply_bytes);
        out.extend_from_slice(b",\"state\":\"");
        out.extend_from_slice(row.state.as_str().as_bytes());
        out.push(b'"');
        if let Some((_, op)) = row.op {
            // Out of the way for a moment: writing needs the rest of `self`.
            let form = std::mem::take(&mut self.form);
            for key in form.keys(op) {
                self.extra(*key, row);
            }
            self.form = form;
        }
        self.out.extend_from_slice(b"}\n");
    }

    fn watch_event(&mut self, row: &WatchEvent<'_>) {
        self.start("watch_event", row.ts_ns, row.conn);
        let out = &mut self.out;
        out.extend_from_slice(b",\"event\":");
        name(out, row.event);
        out.extend_from_slice(b",\"keeper_state\":");
        name(out, row.keeper_state);
        out.extend_from_slice(b",\"path\":");
        path(out, row.path);
        out.extend_from_slice(b",\"zxid\":");
        hex(out, row.zxid);
        self.ends(row.conn);
        self.out.extend_from_slice(b",\"session\":");
        self.session(row.session);
        member(&mut self.out, b",\"bytes\":", Some(row.bytes));
        self.out.extend_from_slice(b"}\n");
    }

    fn connection(&mut self, row: &Connection<'_>) {
        self.start("connection", row.ts_ns, row.conn);
        let out = &mut self.out;
        out.extend_from_slice(b",\"role\":");
        text(out, row.role.as_str());
        out.extend_from_slice(b",\"event\":");
        text(out, row.event.as_str());
        self.ends(row.conn);
        self.out.extend_from_slice(b",\"detail\":");
        name(&mut self.out, row.detail);
        self.out.extend_from_slice(b"}\n");
    }

    fn four_letter(&mut self, row: &FourLetter<'_>) {
        self.start("four_letter", row.ts_ns, row.conn);
        self.out.extend_from_slice(b",\"word\":");
        text(&mut self.out, row.word);
        self.ends(row.conn);
        member(&mut self.out, b",\"reply_bytes\":", row.reply_bytes);
        self.out.extend_from_slice(b"}\n");
    }

    fn quorum(&mut self, row: &Quorum<'_>) {
        self.start("quorum", row.ts_ns, row.conn);
        json_quorum::quorum(
            &mut self.out,
            row,
            self.form.packet_keys(row.name),
            self.hash_key.as_ref(),
        );
    }

    fn election(&mut self, row: &Election<'_>) {
        self.start("election", row.ts_ns, row.conn);
        json_quorum::election(&mut self.out, row);
    }

    fn anomaly(&mut self, row: &Anomaly<'_>) {
        self.start("anomaly", row.ts_ns, row.conn);
        let out = &mut self.out;
        out.extend_from_slice(b",\"reason\":");
        text(out, row.reason);
        out.extend_from_slice(b",\"direction\":");
        name(out, row.direction.map(|direction| direction.as_str()));
        member(out, b",\"bytes\":", row.bytes);
        out.extend_from_slice(b",\"detail\":");
        name(out, row.detail);
        self.ends(row.conn);
        self.out.extend_from_slice(b"}\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Endpoint, State};

    fn conn() -> ConnInfo {
        ConnInfo {
            id: 3,
            client: Endpoint::v4([10, 0, 0, 9], 40000),
            server: Endpoint::v4([10, 0, 0, 1], 2181),
        }
    }

    #[test]
    fn a_line() {
        let form = Form::parse("op getData data_length,stat\nerror -101 NoNode\n").unwrap();
        let mut sink = JsonSink::new(form, None);
        let conn = conn();
        let mut row = Exchange::new(0, 5, &conn, State::Complete);
        row.op = Some((4, "getData"));
        row.path = Some(b"/a\xff\x1b");
        row.error = Some(-101);
        row.latency_ns = Some(1500);
        sink.exchange(&row);
        assert_eq!(sink.lines(), 1);
        assert_eq!(
            std::str::from_utf8(sink.bytes()).unwrap(),
            concat!(
                r#"{"kind":"exchange","ts_ns":5,"flow":"10.0.0.9:40000>10.0.0.1:2181","op":"getData","#,
                r#""opcode":4,"xid":null,"client":"10.0.0.9:40000","server":"10.0.0.1:2181","#,
                r#""session":null,"path":"/a"#,
                "\u{fffd}",
                r#"\u001b","watch":null,"error":-101,"error_name":"NoNode","zxid":null,"#,
                r#""latency_us":1.5,"request_bytes":null,"reply_bytes":null,"state":"complete","#,
                r#""data_length":null,"stat":null}"#,
                "\n"
            )
        );
        sink.clear();
        assert_eq!((sink.lines(), sink.bytes()), (0, &b""[..]));
    }

    #[test]
    fn a_form_that_is_none() {
        assert!(Form::parse("op getData colour").is_err());
        assert!(Form::parse("error x y").is_err());
        assert!(Form::parse("what is this").is_err());
        assert!(Form::parse("op").is_err());
    }

    #[test]
    fn texts_of_another_connection_are_not_kept() {
        let mut sink = JsonSink::new(Form::default(), None);
        for id in [3, 3 + CONN_CACHE as i64] {
            let conn = ConnInfo {
                id,
                client: Endpoint::v4([10, 0, 0, id as u8], 1),
                ..conn()
            };
            sink.connection(&Connection {
                seq: 0,
                ts_ns: 0,
                conn: &conn,
                role: crate::events::Role::Client,
                event: crate::events::ConnectionEvent::Opened,
                detail: None,
            });
            let start = format!("\"flow\":\"10.0.0.{}:1>", id as u8);
            assert!(std::str::from_utf8(sink.bytes()).unwrap().contains(&start));
            sink.clear();
        }
    }
}
