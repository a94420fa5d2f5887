//! Arrow schemas of the event tables: those of `zktrace/analysis/tables.py`, field by field (a test
//! compares them).

use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef};

/// The tables, in the order of `KINDS` in Python.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Exchanges,
    WatchEvents,
    Connections,
    FourLetter,
    Anomalies,
    Quorum,
    Elections,
}

/// All of them.
pub const KINDS: [Kind; 7] = [
    Kind::Exchanges,
    Kind::WatchEvents,
    Kind::Connections,
    Kind::FourLetter,
    Kind::Anomalies,
    Kind::Quorum,
    Kind::Elections,
];

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Exchanges => "exchanges",
            Kind::WatchEvents => "watch_events",
            Kind::Connections => "connections",
            Kind::FourLetter => "four_letter",
            Kind::Anomalies => "anomalies",
            Kind::Quorum => "quorum",
            Kind::Elections => "elections",
        }
    }
}

/// Type of the columns of texts.
pub fn text() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

fn fields(columns: &[(&str, DataType)]) -> Fields {
    columns
        .iter()
        .map(|(name, kind)| Field::new(*name, kind.clone(), true))
        .collect()
}

pub fn stat_fields() -> Fields {
    use DataType::{Int32, Int64};
    fields(&[
        ("czxid", Int64),
        ("mzxid", Int64),
        ("ctime", Int64),
        ("mtime", Int64),
        ("version", Int32),
        ("cversion", Int32),
        ("aversion", Int32),
        ("ephemeral_owner", Int64),
        ("data_length", Int32),
        ("num_children", Int32),
        ("pzxid", Int64),
    ])
}

pub fn sub_fields() -> Fields {
    use DataType::{Int32, Utf8};
    fields(&[("op", Utf8), ("path", Utf8), ("error", Int32)])
}

pub fn watches_fields() -> Fields {
    let names = [
        "data",
        "exist",
        "child",
        "persistent",
        "persistent_recursive",
    ];
    fields(&names.map(|name| (name, DataType::Int32)))
}

pub fn sub_item() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Struct(sub_fields()), true))
}

/// Schema of a table.
pub fn schema(kind: Kind) -> SchemaRef {
    use DataType::{Boolean, Int32, Int64, Utf8};
    let own: Vec<(&str, DataType)> = match kind {
        Kind::Exchanges => vec![
            ("op", text()),
            ("opcode", Int32),
            ("xid", Int64),
            ("session", Int64),
            ("path", text()),
            ("watch", Boolean),
            ("error", Int32),
            ("zxid", Int64),
            ("latency_ns", Int64),
            ("request_bytes", Int64),
            ("reply_bytes", Int64),
            ("state", text()),
            ("flags", Int32),
            ("mode", Int32),
            ("version", Int32),
            ("data_length", Int32),
            ("children", Int32),
            ("ttl", Int64),
            ("created_path", text()),
            ("stat", DataType::Struct(stat_fields())),
            ("sub", DataType::List(sub_item())),
            ("watches", DataType::Struct(watches_fields())),
            ("requested_timeout_ms", Int32),
            ("timeout_ms", Int32),
            ("last_zxid_seen", Int64),
            ("read_only", Boolean),
            ("protocol_version", Int32),
        ],
        Kind::WatchEvents => vec![
            ("session", Int64),
            ("event", text()),
            ("keeper_state", text()),
            ("path", text()),
            ("zxid", Int64),
            ("bytes", Int64),
        ],
        Kind::Connections => vec![("role", text()), ("event", text()), ("detail", Utf8)],
        Kind::FourLetter => vec![("word", text()), ("reply_bytes", Int64)],
        Kind::Anomalies => vec![
            ("reason", text()),
            ("direction", text()),
            ("bytes", Int64),
            ("detail", Utf8),
        ],
        Kind::Quorum => vec![
            ("type", text()),
            ("direction", text()),
            ("zxid", Int64),
            ("bytes", Int64),
            ("session", Int64),
            ("cxid", Int64),
            ("txn_type", text()),
            ("path", text()),
            ("error", Int32),
            ("sid", Int64),
            ("epoch", Int64),
            ("timeout_ms", Int32),
            ("valid", Boolean),
            ("sessions", Int32),
            ("digest", Int64),
            ("sub", DataType::List(sub_item())),
            ("snapshot_bytes", Int64),
            ("snapshot_nodes", Int64),
            ("config", text()),
            ("late", Boolean),
            ("txn_hash", Int64),
        ],
        Kind::Elections => vec![
            ("type", text()),
            ("direction", text()),
            ("sid", Int64),
            ("address", text()),
            ("state", text()),
            ("leader", Int64),
            ("zxid", Int64),
            ("election_epoch", Int64),
            ("peer_epoch", Int64),
            ("version", Int32),
            ("bytes", Int64),
        ],
    };
    // an exchange always has a state
    let always = if kind == Kind::Exchanges { "state" } else { "" };
    let common = [
        Field::new("seq", Int64, false),
        Field::new("ts_ns", Int64, false),
        Field::new("conn", Int64, false),
        Field::new("client", text(), true),
        Field::new("server", text(), true),
    ];
    let own = own
        .into_iter()
        .map(|(name, kind)| Field::new(name, kind, name != always));
    Arc::new(Schema::new(
        common.into_iter().chain(own).collect::<Fields>(),
    ))
}

/// As `schema`, with the keys of texts in their place.
pub fn keys_schema(kind: Kind) -> SchemaRef {
    let schema = schema(kind);
    let fields = schema.fields().iter().map(|field| {
        let keys = match field.data_type() {
            DataType::Dictionary(keys, _) => keys.as_ref().clone(),
            other => other.clone(),
        };
        Field::new(field.name(), keys, field.is_nullable())
    });
    Arc::new(Schema::new(fields.collect::<Fields>()))
}
