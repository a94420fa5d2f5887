//! Connections as the flow layer gives them: finds the role of each, and keeps what all of them hold within bounds.
//! `zktrace/stream/connection.py` is the reference.

use std::cmp::Reverse;
use std::collections::VecDeque;

use crate::client::ClientMachine;
use crate::connection::{
    answered, first_bytes, is_decoded, is_word, Connection, Item, Machine, Word,
};
use crate::events::{Connection as ConnectionRow, ConnectionEvent, Direction, EventSink, Role};
use crate::flow::{End, Endpoint, FlowSink};
use crate::joined::{judge, only_line_end, role_of, End as Hints};
use crate::probe::{handshake_extra, is_cut_connect, probe, Verdict};
use crate::roles::Roles;
use crate::rows::Shared;
use crate::schema::Schema;

/// Bytes of the server held for client bytes that they acknowledge; beyond it they are let go in the order they came.
const HOLD_MAX: usize = 256 * 1024;
/// Bytes held while the role is not known; of a joined connection the oldest are skipped then.
const PROBE_MAX: usize = 64 * 1024;
/// Bytes after which a connection that shows no known protocol is left alone; more where its port is a hint.
const GIVE_UP: u64 = 1024 * 1024;
const GIVE_UP_HINTED: u64 = 16 * 1024 * 1024;
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
    /// How often bytes of a server were let go before those that they answer.
    pub held_limit_hits: u64,
    /// How often a connection gave up what it held, since all together held too much.
    pub memory_limit_hits: u64,
    roles: Roles,
    slots: Vec<Option<Box<Connection>>>,
    /// How many there are.
    live: usize,
}

impl<S: EventSink> Analyzer<S> {
    pub fn new(schema: Schema, sink: S, roles: Roles) -> Self {
        Analyzer {
            shared: Shared::new(schema, sink),
            flows: Flows::default(),
            held_limit_hits: 0,
            memory_limit_hits: 0,
            roles,
            slots: Vec::new(),
            live: 0,
        }
    }

    fn take(&mut self, slot: u32, item: Item) {
        let Some(place) = self.slots.get_mut(slot as usize) else {
            return;
        };
        let Some(mut connection) = place.take() else {
            return;
        };
        let ts = item.ts;
        if connection.role.is_none() {
            connection.waiting_bytes += item.cost();
            self.shared.budget.take(item.charge());
            connection.waiting.push(item);
            self.decide(&mut connection, false);
        } else {
            self.route(&mut connection, item);
        }
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = Some(connection);
        }
        if self.shared.budget.is_over() {
            self.make_room(ts);
        }
    }

    /// Where all connections hold too much, those that hold most give it up.
    #[cold]
    #[inline(never)]
    fn make_room(&mut self, ts: i64) {
        let requests = &self.shared.requests;
        let live = (0..).zip(&self.slots);
        let mut holders: Vec<(Reverse<usize>, i64, usize)> = live
            .filter_map(|(slot, connection)| {
                let connection = connection.as_ref()?;
                Some((Reverse(connection.cost(requests)), connection.number, slot))
            })
            .collect();
        holders.sort_unstable();
        for (_, _, slot) in holders {
            if self.shared.budget.is_enough() {
                break;
            }
            let Some(mut connection) = self.slots.get_mut(slot).and_then(Option::take) else {
                continue;
            };
            self.memory_limit_hits += 1;
            if connection.role.is_none() {
                connection.shed(&mut self.shared, 0);
                connection.look_at = 0;
            } else {
                if !connection.held.is_empty() {
                    self.held_limit_hits += 1;
                    connection.let_go(&mut self.shared, true);
                }
                connection.give_up(&mut self.shared, ts);
            }
            if let Some(place) = self.slots.get_mut(slot) {
                *place = Some(connection);
            }
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
            self.shared.budget.take(item.charge());
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
        let charge: usize = waiting.iter().map(Item::charge).sum();
        self.shared.budget.release(charge);
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
                connection.shed(&mut self.shared, PROBE_MAX / 2);
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
        self.live += 1;
        self.shared.budget.shared_by(self.live);
        if self.shared.budget.is_over() {
            self.make_room(ts_ns);
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
                        if self.shared.budget.is_over() {
                            self.make_room(ts);
                        }
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
                        if self.shared.budget.is_over() {
                            self.make_room(ts);
                        }
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
                late: false,
            },
        );
    }

    #[cold]
    fn late_data(&mut self, slot: u32, _conn_id: u64, side: u8, ts: i64, need: u64, data: &[u8]) {
        let item = Item {
            side,
            ts,
            need,
            data: data.to_vec(),
            missing: 0,
            late: true,
        };
        self.take(slot, item);
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
                late: false,
            },
        );
    }

    fn end(&mut self, slot: u32, _conn_id: u64, ts: i64, how: End) {
        let Some(mut connection) = self.slots.get_mut(slot as usize).and_then(Option::take) else {
            return;
        };
        self.live -= 1;
        self.shared.budget.shared_by(self.live);
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
        connection.end(&mut self.shared);
        match how {
            End::Closed => self.row(&connection, ts, ConnectionEvent::Closed),
            End::Reset => self.row(&connection, ts, ConnectionEvent::Reset),
            End::Reused | End::Evicted | End::Eof => {}
        }
    }
}
