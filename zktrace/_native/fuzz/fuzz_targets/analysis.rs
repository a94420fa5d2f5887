//! Any rows, taken for those of a capture: following writes and checking guarantees does not panic, overflow or run without
//! end; a write's stages add up to how long it took; and what is concluded is the same each time.
//!
//! Bytes that begin as a capture does are decoded as one; others are rows themselves, some bytes each, with few different
//! numbers, so that packets of the same txn, connection and session meet.
#![no_main]

use std::collections::HashMap;

use _native::analysis::columns::{Config, View};
use _native::analysis::value::Value;
use _native::analysis::verify::{self, Evidence, Given};
use _native::analysis::writereport::WriteReport;
use _native::arrays::ArraySink;
use _native::decoder::Decoder;
use _native::events::{
    Anomaly, ConnInfo, Connect, Connection, ConnectionEvent, Direction, Endpoint, EventSink,
    Exchange, Quorum, RawStat, Role, State, WatchEvent,
};
use _native::flow::Limits;
use _native::histogram::{Scale, BUCKETS};
use _native::roles::Roles;
use _native::schema::Schema;

const SCHEMA: &str = include_str!("../../schema.txt");
/// pcap of either byte order and resolution, pcapng.
const MAGICS: [[u8; 4]; 5] = [
    [0xa1, 0xb2, 0xc3, 0xd4],
    [0xd4, 0xc3, 0xb2, 0xa1],
    [0xa1, 0xb2, 0x3c, 0x4d],
    [0x4d, 0x3c, 0xb2, 0xa1],
    [0x0a, 0x0d, 0x0d, 0x0a],
];
const PATHS: [&[u8]; 4] = [b"/a", b"/a/b", b"/c", b"/"];
const EVENTS: [&str; 4] = ["created", "deleted", "changed", "child"];
const REASONS: [&str; 4] = ["bare_check", "malformed", "reused", "given_up"];

/// The next numbers of the input; zeros when it is over.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn below(&mut self, limit: u8) -> usize {
        usize::from(self.byte() % limit)
    }

    /// Mostly small, at times at the ends of what there is.
    fn number(&mut self) -> i64 {
        match self.byte() {
            255 => i64::MAX,
            254 => i64::MIN + 1,
            253 => -1,
            252 => i64::from(i32::MAX) + 1,
            small => i64::from(small),
        }
    }

    fn some<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.byte() % 4 != 0).then(|| make(self))
    }

    /// An epoch and a counter.
    fn zxid(&mut self) -> i64 {
        let byte = self.byte();
        match byte {
            255 => self.number(),
            _ => i64::from(byte >> 6) << 32 | i64::from(byte & 63),
        }
    }

    fn path(&mut self) -> &'static [u8] {
        PATHS[self.below(4)]
    }
}

fn quorum(
    input: &mut Numbers<'_>,
    schema: &Schema,
    at: (i64, i64, &ConnInfo),
    sink: &mut ArraySink,
) {
    let kind = input.below(24) as i32;
    let txns = [1, 2, 5, -10, -11, 14, 7];
    let txn = input.some(|input| txns[input.below(7)]);
    let known = |kind: i32| schema.op(schema.index(kind)).map(|op| op.name.as_ref());
    sink.quorum(&Quorum {
        seq: at.0,
        ts_ns: at.1,
        conn: at.2,
        kind,
        name: schema.packet(kind).unwrap_or("OTHER"),
        to_leader: input.byte() & 1 == 0,
        zxid: input.some(Numbers::zxid),
        bytes: input.some(Numbers::number),
        session: input.some(Numbers::number),
        cxid: input.some(Numbers::number),
        txn: txn.map(|kind| (kind, known(kind).unwrap_or("op"))),
        path: input.some(Numbers::path),
        error: input.some(|input| input.number() as i32),
        sid: input.some(Numbers::number),
        epoch: input.some(Numbers::number),
        timeout_ms: None,
        valid: None,
        sessions: None,
        digest: input.some(Numbers::number),
        sub: None,
        snapshot: None,
        config: (kind == 10).then_some(b"server.1=a:2888:3888"),
        late: input.byte() % 8 == 0,
        txn_hash: input.some(Numbers::number),
    });
}

fn exchange(
    input: &mut Numbers<'_>,
    schema: &Schema,
    at: (i64, i64, &ConnInfo),
    sink: &mut ArraySink,
) {
    let states = [State::Complete, State::NoReply, State::NoRequest];
    let state = states[input.below(3)];
    let ops = [1, 2, 3, 4, 5, 8, 11, 12, 14, 101, -11];
    let op = ops[input.below(11)];
    let mut stat = [0; 68];
    for byte in &mut stat[..16] {
        *byte = input.byte() % 4;
    }
    let asked = Connect {
        last_zxid_seen: Some(input.zxid()),
        protocol_version: Some(0),
        ..Connect::default()
    };
    let mut row = Exchange::new(at.0, at.1, at.2, state);
    let name = schema.op(schema.index(op)).map(|op| op.name.as_ref());
    row.op = match input.byte() % 8 {
        0 => None,
        1 => Some((-10, "connect")),
        _ => Some((op, name.unwrap_or("op"))),
    };
    row.connect = matches!(row.op, Some((-10, _))).then_some(&asked);
    row.xid = input.some(Numbers::number);
    row.session = input.some(Numbers::number);
    row.zxid = input.some(Numbers::zxid);
    row.latency_ns = input.some(|input| input.number().max(0));
    row.error = input.some(|input| -(input.number().clamp(0, 200) as i32) % 3);
    row.path = input.some(Numbers::path);
    row.created_path = input.some(Numbers::path);
    row.watch = input.some(|input| input.byte() & 1 == 0);
    row.stat = (input.byte() & 1 == 0).then_some(RawStat(&stat));
    sink.exchange(&row);
}

fn small(input: &mut Numbers<'_>, (seq, ts_ns, conn): (i64, i64, &ConnInfo), sink: &mut ArraySink) {
    match input.byte() % 3 {
        0 => {
            let roles = [Role::Client, Role::Quorum, Role::Election];
            let events = [
                ConnectionEvent::Opened,
                ConnectionEvent::Joined,
                ConnectionEvent::Closed,
                ConnectionEvent::Reset,
            ];
            sink.connection(&Connection {
                seq,
                ts_ns,
                conn,
                role: roles[input.below(3)],
                event: events[input.below(4)],
                detail: None,
            });
        }
        1 => sink.watch_event(&WatchEvent {
            seq,
            ts_ns,
            conn,
            session: input.some(Numbers::number),
            event: input.some(|input| EVENTS[input.below(4)]),
            keeper_state: None,
            path: input.some(Numbers::path),
            zxid: input.some(Numbers::zxid),
            bytes: 0,
        }),
        _ => sink.anomaly(&Anomaly {
            seq,
            ts_ns,
            conn,
            reason: REASONS[input.below(4)],
            direction: input.some(|input| match input.byte() & 1 {
                0 => Direction::ToServer,
                _ => Direction::ToClient,
            }),
            bytes: None,
            detail: Some("detail"),
        }),
    }
}

/// Rows made of the input, in the order of their numbers as those of a decoder are.
fn rows(data: &[u8], schema: &Schema, sink: &mut ArraySink) {
    let mut input = Numbers(data);
    let (mut seq, mut ts_ns) = (0, 0);
    while !input.0.is_empty() {
        let id = input.below(8) as i64;
        // a connection is to a learner's client port, or to the leader's quorum port
        let port = if id < 4 { 2181 } else { 2888 };
        let conn = ConnInfo {
            id,
            client: Endpoint::v4([10, 0, 0, 1 + id as u8 % 4], 40_000 + id as u16),
            server: Endpoint::v4([10, 0, 0, 1 + id as u8 / 4], port),
        };
        ts_ns = match input.byte() {
            255 => input.number(),
            step => i64::saturating_add(ts_ns, i64::from(step) * 1_000),
        };
        let at = (seq, ts_ns, &conn);
        match input.byte() % 4 {
            0 | 1 => quorum(&mut input, schema, at, sink),
            2 => exchange(&mut input, schema, at, sink),
            _ => small(&mut input, at, sink),
        }
        seq += 1;
    }
}

fn decode(data: &[u8], schema: Schema, sink: ArraySink) -> Option<ArraySink> {
    let roles = Roles::new(Vec::new(), Vec::new(), Vec::new());
    let mut decoder = Decoder::new(schema, sink, roles, Limits::default());
    let source = decoder.add_source(None);
    decoder.feed(source, data).ok()?;
    decoder.end_source(source).ok()?;
    decoder.finish();
    Some(decoder.analyzer.shared.sink)
}

fn time(fields: &[(&'static str, Value)], name: &str) -> Option<i64> {
    fields.iter().find_map(|(known, value)| match value {
        Value::Us(ns) if *known == name => Some(*ns),
        _ => None,
    })
}

/// The stages of a write, one behind the other, are as long as it took; clocks may be absurd.
fn adds_up(write: &Value) {
    let Value::Map(fields) = write else {
        panic!("a write is a map");
    };
    let stages = fields.iter().find(|(name, _)| *name == "stages");
    let (Some(total), Some((_, Value::List(stages)))) = (time(fields, "total_us"), stages) else {
        panic!("a write has stages and a length");
    };
    let told = stages.iter().filter_map(|stage| match stage {
        Value::Map(stage) => time(stage, "us"),
        _ => None,
    });
    let sum = told.fold(0, i64::wrapping_add);
    assert_eq!(sum, total, "{write:?}");
}

/// All that can be asked, as text.
fn analyse(
    sink: &ArraySink,
    configs: &[Option<Config>],
    scale: &Scale,
    voters: Option<i64>,
) -> String {
    let report = WriteReport::new(View::new(sink, configs), scale, voters);
    let mut told = format!("{:?} {:?}", report.summary(), report.slowest(3));
    for number in report.by_time() {
        if let Some(write) = report.write(number as usize) {
            adds_up(&write);
            told += &format!("{write:?}");
        }
    }
    for times_hold in [true, false] {
        let given = Given {
            voters,
            times_hold,
            hash_key: times_hold.then_some([7; 16]),
            errors: HashMap::from([(-101, "NoNode".to_owned())]),
        };
        let evidence = Evidence::new(View::new(sink, configs), &given);
        for name in verify::names() {
            told += &format!("{:?}", verify::run(&evidence, name));
        }
    }
    told
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let schema = Schema::parse(SCHEMA).expect("the committed schema");
    let mut sink = ArraySink::new(&ArraySink::names(), None).expect("all columns that there are");
    if data
        .first_chunk()
        .is_some_and(|magic| MAGICS.contains(magic))
    {
        match decode(data, schema, sink) {
            Some(decoded) => sink = decoded,
            None => return,
        }
    } else {
        rows(data, &schema, &mut sink);
    }
    // Near enough: the exact bounds come from Python.
    let bound = |i: usize| (i as f64 / 32.0).exp2().ceil() as u64;
    let scale = Scale::new((0..=BUCKETS).map(bound).collect()).expect("ascending bounds");
    let texts = sink
        .dictionary("quorum", "config")
        .map_or(0, |texts| texts.len());
    let address = |sid: u8| (sid.to_string(), format!("10.0.0.{sid}:2888"));
    let config = Config {
        voters: vec!["1".to_owned(), "2".to_owned(), "3".to_owned()],
        addresses: [1, 2, 3].map(address).to_vec(),
        simple: true,
        meaning: 0,
    };
    let configs: Vec<_> = (0..texts)
        .map(|number| (number % 3 != 2).then(|| config.clone()))
        .collect();
    let voters = (data.len() % 2 == 0).then_some(3);
    let first = analyse(&sink, &configs, &scale, voters);
    assert_eq!(first, analyse(&sink, &configs, &scale, voters));
});
