//! One connection: finds its role, keeps cause before effect, feeds its machine. `zktrace/stream/connection.py` is the
//! reference.

use std::collections::VecDeque;

use crate::client::ClientMachine;
use crate::election::ElectionMachine;
use crate::events::{
    ConnInfo, Connection as ConnectionRow, ConnectionEvent, Direction, Endpoint as RowEndpoint,
    EventSink, FourLetter, Role,
};
use crate::flow::{End, Endpoint, FlowSink};
use crate::joined::{judge, only_line_end, role_of, End as Hints};
use crate::probe::{handshake_extra, is_cut_connect, probe, Verdict};
use crate::quorum::QuorumMachine;
use crate::roles::{Listener, Roles};
use crate::rows::Shared;
use crate::schema::Schema;

/// Bytes of the server held for client bytes that they acknowledge; beyond it they are let go in the order they came.
const HOLD_MAX: usize = 256 * 1024;
/// Bytes held while the role is not known; of a joined connection the oldest are skipped then.
const PROBE_MAX: usize = 64 * 1024;
/// Bytes after which a connection that shows no known protocol is left alone; more where its port is a hint.
const GIVE_UP: u64 = 1024 * 1024;
const GIVE_UP_HINTED: u64 = 16 * 1024 * 1024;
/// What holding a piece costs beside its bytes, so that many small ones are bounded too.
const ITEM_COST: usize = 64;

/// What one side sent: bytes, or how many of them were not captured.
pub struct Item {
    pub side: u8,
    pub ts: i64,
    pub need: u64,
    pub data: Vec<u8>,
    pub missing: u64,
}

impl Item {
    fn cost(&self) -> usize {
        self.data.len() + ITEM_COST
    }
}

/// A four-letter word and its answer: the size of the answer is kept, never its bytes.
struct Word {
    name: String,
    asked: usize,
    ts: i64,
    reply_bytes: Option<i64>,
}

enum Machine {
    None,
    Client(Box<ClientMachine>),
    Word(Box<Word>),
    Quorum(Box<QuorumMachine>),
    Election(Box<ElectionMachine>),
}

struct Connection {
    number: i64,
    ts: i64,
    ends: [Listener; 2],
    syn: bool,
    role: Option<Role>,
    client_side: u8,
    machine: Machine,
    waiting: Vec<Item>,
    waiting_bytes: usize,
    /// Bytes in hand at which it is worth looking again.
    look_at: usize,
    /// Bytes of each side that were skipped before a role was found.
    shed: [u64; 2],
    /// Bytes and gaps of the client's side so far, as the flow layer counts them.
    client_position: u64,
    held: VecDeque<Item>,
    held_bytes: usize,
}

/// Connections by role.
#[derive(Default, Clone, Debug)]
pub struct Flows {
    pub client: u64,
    pub quorum: u64,
    pub election: u64,
    pub tls: u64,
    pub unknown: u64,
}

/// Takes the flow layer's calls and gives rows.
pub struct Analyzer<S> {
    pub shared: Shared<S>,
    pub flows: Flows,
    /// How often more than HOLD_MAX bytes were held.
    pub held_limit_hits: u64,
    roles: Roles,
    slots: Vec<Option<Box<Connection>>>,
}

impl<S: EventSink> Analyzer<S> {
    pub fn new(schema: Schema, sink: S, roles: Roles) -> Self {
        Analyzer {
            shared: Shared::new(schema, sink),
            flows: Flows::default(),
            held_limit_hits: 0,
            roles,
            slots: Vec::new(),
        }
    }

    fn take(&mut self, slot: u32, item: Item) {
        let Some(place) = self.slots.get_mut(slot as usize) else {
            return;
        };
        let Some(mut connection) = place.take() else {
            return;
        };
        if connection.role.is_none() {
            connection.waiting_bytes += item.cost();
            connection.waiting.push(item);
            self.decide(&mut connection, false);
        } else {
            self.route(&mut connection, item);
        }
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = Some(connection);
        }
    }

    fn route(&mut self, connection: &mut Connection, item: Item) {
        if matches!(connection.machine, Machine::None) {
            if is_decoded(connection.role) {
                self.shared.counters.skipped_bytes += item.data.len() as u64;
            }
            return;
        }
        if item.side == connection.client_side {
            connection.deliver(&mut self.shared, &item);
            connection.let_go(&mut self.shared, false);
        } else if !connection.held.is_empty() || item.need > connection.client_position {
            connection.held_bytes += item.cost();
            connection.held.push_back(item);
            if connection.held_bytes > HOLD_MAX {
                self.held_limit_hits += 1;
                connection.let_go(&mut self.shared, true);
            }
        } else {
            connection.deliver(&mut self.shared, &item);
        }
    }

    fn decide(&mut self, connection: &mut Connection, at_end: bool) {
        let mut hopeless = false;
        match self.beginning(connection) {
            Some((first, verdict)) => self.decide_opened(connection, &first, verdict, at_end),
            None => {
                if at_end || connection.waiting_bytes >= connection.look_at {
                    hopeless = self.decide_joined(connection);
                    connection.look_at = connection.waiting_bytes * 5 / 4;
                }
            }
        }
        if connection.role.is_none() && hopeless {
            self.settle(connection, Role::Unknown);
        }
        if connection.role.is_none() {
            return;
        }
        let waiting = std::mem::take(&mut connection.waiting);
        let [a, b] = connection.shed;
        connection.client_position = if connection.client_side == 0 { a } else { b };
        if is_decoded(connection.role) {
            self.shared.counters.skipped_bytes += a + b;
        }
        for item in waiting {
            self.route(connection, item);
        }
    }

    /// The first bytes of a connection that was seen to open, and what they can be; None where too few were captured.
    fn beginning(&self, connection: &Connection) -> Option<(Vec<u8>, Verdict)> {
        if !connection.syn || connection.shed[0] != 0 {
            return None;
        }
        let first = first_bytes(&connection.waiting, 0)?;
        let mut verdict = probe(&first, &self.shared.schema);
        if connection
            .waiting
            .iter()
            .any(|item| item.side == 0 && item.missing > 0)
        {
            // the rest of the first bytes was not captured: a snap length, or a loss
            if verdict == Verdict::More && is_cut_connect(&first) {
                verdict = Verdict::Connect;
            }
            if matches!(verdict, Verdict::More | Verdict::Unknown) {
                return None;
            }
        }
        Some((first, verdict))
    }

    fn decide_opened(
        &mut self,
        connection: &mut Connection,
        first: &[u8],
        verdict: Verdict,
        at_end: bool,
    ) {
        if verdict == Verdict::More && !at_end && connection.waiting_bytes <= PROBE_MAX {
            return;
        }
        let [_, server] = connection.ends;
        let mut role = role_of(verdict);
        if matches!(role, Role::Client | Role::Quorum | Role::Election) {
            if self.roles.allowed(role, server) {
                self.roles.learn(role, server);
            } else {
                role = Role::Unknown;
            }
        } else if role == Role::Unknown && is_word(first) && !answered(&connection.waiting) {
            // a four-letter word that nobody knows; ZooKeeper takes it for a length and closes
            let known = self.roles.known(server) == Some(Role::Client);
            if !known && first.len() < 7 && !at_end {
                return;
            }
            if known
                || (only_line_end(first.get(4..).unwrap_or_default())
                    && self.roles.allowed(Role::Client, server))
            {
                role = Role::Client;
            }
        }
        self.settle(connection, role);
        if role == Role::Client {
            self.start_client(connection, verdict, first);
        } else {
            connection.start_server(role, true);
        }
    }

    fn start_client(&mut self, connection: &mut Connection, verdict: Verdict, first: &[u8]) {
        let conn = connection.info();
        match verdict {
            Verdict::Word => {
                let name = first
                    .get(..4)
                    .and_then(|word| self.shared.schema.word(word));
                connection.machine = Machine::Word(Box::new(Word {
                    name: name.unwrap_or_default().to_owned(),
                    asked: 0,
                    ts: 0,
                    reply_bytes: Some(0),
                }));
            }
            Verdict::Connect => {
                let machine = ClientMachine::new(conn, true, handshake_extra(first));
                connection.machine = Machine::Client(Box::new(machine));
            }
            _ => {
                let asked = connection
                    .waiting
                    .iter()
                    .find(|item| item.side == 0 && !item.data.is_empty());
                let word = String::from_utf8_lossy(first.get(..4).unwrap_or_default());
                self.shared.anomaly(
                    &conn,
                    asked.map_or(connection.ts, |item| item.ts),
                    "unknown_word",
                    Some(Direction::ToServer),
                    Some(4),
                    &word,
                );
            }
        }
    }

    /// Gives whether it is time to leave the connection alone.
    fn decide_joined(&mut self, connection: &mut Connection) -> bool {
        let hints = connection.ends.map(|end| Hints {
            known: self.roles.known(end),
            hint: self.roles.hinted(end),
        });
        let whole = connection.shed.map(|shed| shed == 0);
        let schema = &self.shared.schema;
        let Some(found) = judge(schema, &connection.waiting, hints, connection.syn, whole) else {
            if connection.waiting_bytes > PROBE_MAX {
                connection.shed_half();
            }
            let limit = if hints.iter().any(|end| end.hint.is_some()) {
                GIVE_UP_HINTED
            } else {
                GIVE_UP
            };
            return connection.shed.iter().sum::<u64>() > limit;
        };
        let mut role = found.role;
        let [a, b] = connection.ends;
        let server = if found.server_side == 0 { a } else { b };
        if role != Role::Tls && !self.roles.allowed(role, server) {
            role = Role::Unknown;
        } else if found.verdict.is_some() && role != Role::Tls {
            self.roles.learn(role, server);
        }
        connection.client_side = if found.server_side == 0 { 1 } else { 0 };
        self.settle(connection, role);
        if role == Role::Client {
            if let Some(verdict) = found.verdict {
                let first =
                    first_bytes(&connection.waiting, connection.client_side).unwrap_or_default();
                self.start_client(connection, verdict, &first);
            } else {
                let machine = ClientMachine::new(connection.info(), false, 0);
                connection.machine = Machine::Client(Box::new(machine));
            }
        } else {
            connection.start_server(role, found.verdict.is_some());
        }
        false
    }

    fn settle(&mut self, connection: &mut Connection, role: Role) {
        connection.role = Some(role);
        let count = match role {
            Role::Client => &mut self.flows.client,
            Role::Quorum => &mut self.flows.quorum,
            Role::Election => &mut self.flows.election,
            Role::Tls => &mut self.flows.tls,
            Role::Unknown => &mut self.flows.unknown,
        };
        *count += 1;
        if role == Role::Unknown && !connection.syn {
            let [a, b] = connection.ends.map(|end| self.roles.hinted(end));
            if a.is_some() && b.is_none() {
                connection.client_side = 1;
            }
        }
        let event = if connection.syn {
            ConnectionEvent::Opened
        } else {
            ConnectionEvent::Joined
        };
        self.row(connection, connection.ts, event);
    }

    fn row(&mut self, connection: &Connection, ts_ns: i64, event: ConnectionEvent) {
        let seq = self.shared.next_seq();
        self.shared.sink.connection(&ConnectionRow {
            seq,
            ts_ns,
            conn: &connection.info(),
            role: connection.role.unwrap_or(Role::Unknown),
            event,
            detail: None,
        });
    }
}

impl<S: EventSink> FlowSink for Analyzer<S> {
    fn open(&mut self, slot: u32, conn_id: u64, ts_ns: i64, a: Endpoint, b: Endpoint, syn: bool) {
        let slot = slot as usize;
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(Box::new(Connection {
                number: conn_id as i64,
                ts: ts_ns,
                ends: [(a.ip, a.port), (b.ip, b.port)],
                syn,
                role: None,
                client_side: 0,
                machine: Machine::None,
                waiting: Vec::new(),
                waiting_bytes: 0,
                look_at: 0,
                shed: [0, 0],
                client_position: 0,
                held: VecDeque::new(),
                held_bytes: 0,
            }));
        }
    }

    #[inline]
    fn data(&mut self, slot: u32, _conn_id: u64, side: u8, ts: i64, need: u64, data: &[u8]) {
        // the common case: bytes that can be decoded where they are
        if let Some(Some(connection)) = self.slots.get_mut(slot as usize) {
            if let Some(role) = connection.role {
                let to_server = side == connection.client_side;
                if let Machine::Client(machine) = &mut connection.machine {
                    if connection.held.is_empty()
                        && (to_server || need <= connection.client_position)
                    {
                        if to_server {
                            connection.client_position += data.len() as u64;
                        }
                        machine.data(&mut self.shared, to_server, ts, data);
                        return;
                    }
                } else if let Machine::Quorum(machine) = &mut connection.machine {
                    if connection.held.is_empty()
                        && (to_server || need <= connection.client_position)
                    {
                        if to_server {
                            connection.client_position += data.len() as u64;
                        }
                        machine.data(&mut self.shared, to_server, ts, data);
                        return;
                    }
                } else if matches!(role, Role::Tls | Role::Unknown) {
                    return;
                }
            }
        }
        self.take(
            slot,
            Item {
                side,
                ts,
                need,
                data: data.to_vec(),
                missing: 0,
            },
        );
    }

    fn gap(&mut self, slot: u32, _conn_id: u64, side: u8, ts: i64, n: u64) {
        self.take(
            slot,
            Item {
                side,
                ts,
                need: 0,
                data: Vec::new(),
                missing: n,
            },
        );
    }

    fn end(&mut self, slot: u32, _conn_id: u64, ts: i64, how: End) {
        let Some(mut connection) = self.slots.get_mut(slot as usize).and_then(Option::take) else {
            return;
        };
        if connection.role.is_none() && connection.waiting.is_empty() && connection.shed == [0, 0] {
            // refused, or nothing was said: its listener may be known from others
            let [_, server] = connection.ends;
            let known = self.roles.known(server);
            self.settle(&mut connection, known.unwrap_or(Role::Unknown));
        }
        if connection.role.is_none() {
            self.decide(&mut connection, true);
        }
        if connection.role.is_none() {
            self.settle(&mut connection, Role::Unknown);
        }
        connection.let_go(&mut self.shared, true);
        let conn = connection.info();
        match &mut connection.machine {
            Machine::None => {}
            Machine::Client(machine) => machine.end(&mut self.shared),
            Machine::Quorum(machine) => machine.end(&mut self.shared),
            Machine::Election(machine) => machine.end(&mut self.shared),
            Machine::Word(word) => {
                let seq = self.shared.next_seq();
                self.shared.sink.four_letter(&FourLetter {
                    seq,
                    ts_ns: word.ts,
                    conn: &conn,
                    word: &word.name,
                    reply_bytes: word.reply_bytes,
                });
            }
        }
        match how {
            End::Closed => self.row(&connection, ts, ConnectionEvent::Closed),
            End::Reset => self.row(&connection, ts, ConnectionEvent::Reset),
            End::Reused | End::Evicted | End::Eof => {}
        }
    }
}

impl Connection {
    fn info(&self) -> ConnInfo {
        let [a, b] = self.ends;
        let (client, server) = if self.client_side == 0 {
            (a, b)
        } else {
            (b, a)
        };
        ConnInfo {
            id: self.number,
            client: endpoint(client),
            server: endpoint(server),
        }
    }

    fn start_server(&mut self, role: Role, opened: bool) {
        let conn = self.info();
        match role {
            Role::Quorum => {
                self.machine = Machine::Quorum(Box::new(QuorumMachine::new(conn, opened)));
            }
            Role::Election => {
                self.machine = Machine::Election(Box::new(ElectionMachine::new(conn, opened)));
            }
            Role::Client | Role::Tls | Role::Unknown => {}
        }
    }

    fn let_go<S: EventSink>(&mut self, shared: &mut Shared<S>, everything: bool) {
        while let Some(item) = self.held.front() {
            if !everything && item.need > self.client_position {
                break;
            }
            if let Some(item) = self.held.pop_front() {
                self.held_bytes -= item.cost();
                self.deliver(shared, &item);
            }
        }
    }

    fn deliver<S: EventSink>(&mut self, shared: &mut Shared<S>, item: &Item) {
        let to_server = item.side == self.client_side;
        if to_server {
            self.client_position += item.data.len() as u64 + item.missing;
        }
        match &mut self.machine {
            Machine::None => {}
            Machine::Client(machine) => {
                if item.missing > 0 {
                    machine.gap(shared, to_server, item.ts, item.missing);
                } else {
                    machine.data(shared, to_server, item.ts, &item.data);
                }
            }
            Machine::Quorum(machine) => {
                if item.missing > 0 {
                    machine.gap(shared, to_server, item.ts, item.missing);
                } else {
                    machine.data(shared, to_server, item.ts, &item.data);
                }
            }
            Machine::Election(machine) => {
                if item.missing > 0 {
                    machine.gap(shared, to_server, item.ts, item.missing);
                } else {
                    machine.data(shared, to_server, item.ts, &item.data);
                }
            }
            Machine::Word(word) => {
                if to_server {
                    if item.missing == 0 {
                        if word.asked < 4 {
                            word.ts = word.ts.max(item.ts);
                        }
                        word.asked += item.data.len();
                    }
                } else if item.missing > 0 {
                    word.reply_bytes = None;
                } else if let Some(bytes) = &mut word.reply_bytes {
                    *bytes += item.data.len() as i64;
                }
            }
        }
    }

    fn shed_half(&mut self) {
        let mut count = 0;
        for item in &self.waiting {
            if self.waiting_bytes <= PROBE_MAX / 2 {
                break;
            }
            count += 1;
            self.waiting_bytes -= item.cost();
            let [a, b] = &mut self.shed;
            *(if item.side == 0 { a } else { b }) += item.data.len() as u64 + item.missing;
        }
        self.waiting.drain(..count);
    }
}

/// Whether bytes of a role are decoded: those that cannot be are counted.
fn is_decoded(role: Option<Role>) -> bool {
    matches!(role, Some(Role::Client | Role::Quorum | Role::Election))
}

fn endpoint(at: Listener) -> RowEndpoint {
    let (ip, port) = at;
    if ip.v6 {
        let bits = (u128::from(ip.hi) << 64) | u128::from(ip.lo);
        RowEndpoint::v6(bits.to_be_bytes(), port)
    } else {
        RowEndpoint::v4((ip.lo as u32).to_be_bytes(), port)
    }
}

/// The bytes in hand that a side sent first; None where its first ones were not captured.
fn first_bytes(waiting: &[Item], side: u8) -> Option<Vec<u8>> {
    let mut first = Vec::new();
    for item in waiting.iter().filter(|item| item.side == side) {
        if item.missing > 0 {
            return (!first.is_empty()).then_some(first);
        }
        first.extend_from_slice(&item.data);
    }
    Some(first)
}

fn answered(waiting: &[Item]) -> bool {
    waiting
        .iter()
        .any(|item| item.side == 1 && !item.data.is_empty())
}

fn is_word(first: &[u8]) -> bool {
    first
        .first_chunk::<4>()
        .is_some_and(|word| word.iter().all(|byte| (0x20..0x7f).contains(byte)))
}
