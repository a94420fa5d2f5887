//! One connection: what waits for its role or for its cause, and the machine that it feeds. `zktrace/stream/connection.py`
//! is the reference; who decides the role is in `analyzer`.

use std::collections::VecDeque;

use crate::budget::PIECE_COST;
use crate::client::ClientMachine;
use crate::election::ElectionMachine;
use crate::events::{ConnInfo, Endpoint as RowEndpoint, EventSink, FourLetter, Role};
use crate::pairing::Requests;
use crate::quorum::QuorumMachine;
use crate::roles::Listener;
use crate::rows::Shared;

/// What holding a piece costs beside its bytes, so that many small ones are bounded too.
const ITEM_COST: usize = 64;

/// What one side sent: bytes, or how many of them were not captured.
pub struct Item {
    pub side: u8,
    pub ts: i64,
    pub need: u64,
    pub data: Vec<u8>,
    pub missing: u64,
    /// They may have been sent before `ts`.
    pub late: bool,
}

impl Item {
    /// What it counts as by the limits of its connection.
    pub fn cost(&self) -> usize {
        self.data.len() + ITEM_COST
    }

    /// What it costs all connections together.
    pub fn charge(&self) -> usize {
        self.data.len() + PIECE_COST
    }
}

/// A four-letter word and its answer: the size of the answer is kept, never its bytes.
pub struct Word {
    pub name: String,
    pub asked: usize,
    pub ts: i64,
    pub reply_bytes: Option<i64>,
}

pub enum Machine {
    None,
    Client(Box<ClientMachine>),
    Word(Box<Word>),
    Quorum(Box<QuorumMachine>),
    Election(Box<ElectionMachine>),
}

pub struct Connection {
    pub number: i64,
    pub ts: i64,
    pub ends: [Listener; 2],
    pub syn: bool,
    pub role: Option<Role>,
    pub client_side: u8,
    pub machine: Machine,
    pub waiting: Vec<Item>,
    pub waiting_bytes: usize,
    /// Bytes in hand at which it is worth looking again.
    pub look_at: usize,
    /// Bytes of each side that were skipped before a role was found.
    pub shed: [u64; 2],
    /// Bytes and gaps of the client's side so far, as the flow layer counts them.
    pub client_position: u64,
    pub held: VecDeque<Item>,
    pub held_bytes: usize,
}

impl Connection {
    pub fn info(&self) -> ConnInfo {
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

    pub fn start_server(&mut self, role: Role, opened: bool) {
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

    pub fn let_go<S: EventSink>(&mut self, shared: &mut Shared<S>, everything: bool) {
        while let Some(item) = self.held.front() {
            if !everything && item.need > self.client_position {
                break;
            }
            if let Some(item) = self.held.pop_front() {
                self.held_bytes -= item.cost();
                shared.budget.release(item.charge());
                self.deliver(shared, &item);
            }
        }
        if self.held.is_empty() {
            self.held = VecDeque::new();
        }
    }

    pub fn deliver<S: EventSink>(&mut self, shared: &mut Shared<S>, item: &Item) {
        let to_server = item.side == self.client_side;
        if to_server {
            self.client_position += item.data.len() as u64 + item.missing;
        }
        match &mut self.machine {
            Machine::None => {}
            Machine::Client(machine) => {
                if item.missing > 0 {
                    machine.gap(shared, to_server, item.ts, item.missing);
                } else if item.late {
                    machine.late_data(shared, to_server, item.ts, &item.data);
                } else {
                    machine.data(shared, to_server, item.ts, &item.data);
                }
            }
            Machine::Quorum(machine) => {
                if item.missing > 0 {
                    machine.gap(shared, to_server, item.ts, item.missing);
                } else if item.late {
                    machine.late_data(shared, to_server, item.ts, &item.data);
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

    /// Skips the oldest bytes of a connection without a role, but for so many.
    pub fn shed<S>(&mut self, shared: &mut Shared<S>, most: usize) {
        let mut count = 0;
        for item in &self.waiting {
            if self.waiting_bytes <= most {
                break;
            }
            count += 1;
            self.waiting_bytes -= item.cost();
            let [a, b] = &mut self.shed;
            *(if item.side == 0 { a } else { b }) += item.data.len() as u64 + item.missing;
            shared.budget.release(item.charge());
        }
        self.waiting.drain(..count);
        self.waiting.shrink_to_fit();
    }

    /// What it holds, as the budget has it.
    pub fn cost(&self, requests: &Requests) -> usize {
        let items = self.waiting.iter().chain(&self.held);
        let pieces: usize = items.map(Item::charge).sum();
        pieces
            + match &self.machine {
                Machine::None | Machine::Word(_) => 0,
                Machine::Client(machine) => machine.cost(requests),
                Machine::Quorum(machine) => machine.cost(),
                Machine::Election(machine) => machine.cost(),
            }
    }

    /// The connection is over.
    pub fn end<S: EventSink>(&mut self, shared: &mut Shared<S>) {
        let conn = self.info();
        match &mut self.machine {
            Machine::None => {}
            Machine::Client(machine) => machine.end(shared),
            Machine::Quorum(machine) => machine.end(shared),
            Machine::Election(machine) => machine.end(shared),
            Machine::Word(word) => {
                let seq = shared.next_seq();
                shared.sink.four_letter(&FourLetter {
                    seq,
                    ts_ns: word.ts,
                    conn: &conn,
                    word: &word.name,
                    reply_bytes: word.reply_bytes,
                });
            }
        }
    }

    /// All connections together hold too much, and this one most.
    pub fn give_up<S: EventSink>(&mut self, shared: &mut Shared<S>, ts: i64) {
        match &mut self.machine {
            Machine::None | Machine::Word(_) => {}
            Machine::Client(machine) => machine.give_up(shared, ts),
            Machine::Quorum(machine) => machine.give_up(shared, ts),
            Machine::Election(machine) => machine.give_up(shared, ts),
        }
    }
}

/// Whether bytes of a role are decoded: those that cannot be are counted.
pub fn is_decoded(role: Option<Role>) -> bool {
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
pub fn first_bytes(waiting: &[Item], side: u8) -> Option<Vec<u8>> {
    let mut first = Vec::new();
    for item in waiting.iter().filter(|item| item.side == side) {
        if item.missing > 0 {
            return (!first.is_empty()).then_some(first);
        }
        first.extend_from_slice(&item.data);
    }
    Some(first)
}

pub fn answered(waiting: &[Item]) -> bool {
    waiting
        .iter()
        .any(|item| item.side == 1 && !item.data.is_empty())
}

pub fn is_word(first: &[u8]) -> bool {
    first
        .first_chunk::<4>()
        .is_some_and(|word| word.iter().all(|byte| (0x20..0x7f).contains(byte)))
}
