//! A copy of the traffic as a pcapng stream: each chunk of bytes as a TCP segment with plausible headers.
//!
//! Sequence numbers count the bytes of each direction, so that left out packets are gaps to whoever decodes, as in any
//! capture. They begin anywhere (`initial`): a connection on the ports of an earlier one must not look like a copy of it. Checksums of TCP are left 0 here: whoever writes a file fills them in.
//! pcapng: draft-ietf-opsawg-pcapng, sections 4.1 to 4.3; link type RAW (101): packets begin with IP.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{add, Counters};

/// Longest packet: what IPv4 can say, less some room.
pub const SNAPLEN: u32 = 65_535;
/// Payload of a packet; longer chunks are cut.
pub const CHUNK: usize = 60 * 1024;
/// A block that has grown to this is handed over at once.
const BLOCK: usize = 128 * 1024;
/// Memory of one: no packet goes beyond it.
const BLOCK_MEMORY: usize = BLOCK + CHUNK + 256;
/// Blocks whose memory is used again when their readers are done: a fresh one is zeroed by the kernel, page by page.
const LENT: usize = 8;

/// Bytes of a comment.
const NOTE: usize = 2048;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
const PSH: u8 = 8;
pub const ACK: u8 = 16;

/// What a pcapng file begins with: a section and its one interface.
pub const HEADER: [u8; 28 + 32] = {
    let mut out = [0_u8; 60];
    // Section header: type, length, byte order, version 1.0, length of the section not known.
    let section = [
        0x0A, 0x0D, 0x0D, 0x0A, 28, 0, 0, 0, 0x4D, 0x3C, 0x2B, 0x1A, 1, 0, 0, 0, 0xFF, 0xFF, 0xFF,
        0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 28, 0, 0, 0,
    ];
    // Interface: link type RAW, snap length, times in 10^-9 s (option 9), end of options.
    let interface = [
        1, 0, 0, 0, 32, 0, 0, 0, 101, 0, 0, 0, 0xFF, 0xFF, 0, 0, 9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0,
        0, 32, 0, 0, 0,
    ];
    let mut at = 0;
    while at < 28 {
        out[at] = section[at];
        at += 1;
    }
    while at < 60 {
        out[at] = interface[at - 28];
        at += 1;
    }
    out
};

/// The same with a comment (opt_comment) of the section, at most 2 KiB of it.
#[must_use]
pub fn commented(comment: &[u8]) -> Vec<u8> {
    let comment = &comment[..comment.len().min(NOTE)];
    let padded = comment.len().next_multiple_of(4);
    let total = ((28 + 4 + padded + 4) as u32).to_le_bytes();
    let mut out = HEADER[..24].to_vec();
    out[4..8].copy_from_slice(&total);
    out.extend_from_slice(&1_u16.to_le_bytes());
    out.extend_from_slice(&(comment.len() as u16).to_le_bytes());
    out.extend_from_slice(comment);
    out.resize(24 + 4 + padded + 4, 0);
    out.extend_from_slice(&total);
    out.extend_from_slice(&HEADER[28..]);
    out
}

/// Bytes of `statistics`.
pub const STATISTICS: usize = 40;

/// What the end of a file says: how many packets were left out of it (an interface statistics block with isb_ifdrop).
#[must_use]
pub fn statistics(lost: u64, ts_ns: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(STATISTICS);
    for word in [
        5,
        STATISTICS as u32,
        0,
        (ts_ns >> 32) as u32,
        ts_ns as u32,
        5 | 8 << 16,
    ] {
        out.extend_from_slice(&u32::to_le_bytes(word));
    }
    out.extend_from_slice(&lost.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(STATISTICS as u32).to_le_bytes());
    out
}

/// Bytes that wait for their reader: blocks of whole packets. Shared between the plane and one reader.
#[derive(Debug)]
pub struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
    limit: usize,
    /// Packets that were left out.
    lost: AtomicU64,
    /// What happens when it is full: true: sockets are not read until there is room; false: packets are left out of it, and
    /// counted.
    lossless: bool,
}

#[derive(Debug, Default)]
struct State {
    blocks: VecDeque<Arc<Vec<u8>>>,
    bytes: usize,
    closed: bool,
    /// Connections that wait for room.
    waiting: Vec<Waker>,
}

impl Queue {
    #[must_use]
    pub fn new(limit: usize, lossless: bool) -> Arc<Self> {
        let queue = Self {
            state: Mutex::new(State::default()),
            arrived: Condvar::new(),
            limit,
            lost: AtomicU64::new(0),
            lossless,
        };
        queue.push(Arc::new(HEADER.to_vec()));
        Arc::new(queue)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic elsewhere leaves the queue whole: each change is made at once.
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn push(&self, block: Arc<Vec<u8>>) {
        let mut state = self.state();
        if state.closed {
            return;
        }
        state.bytes += block.len();
        state.blocks.push_back(block);
        drop(state);
        self.arrived.notify_one();
    }

    /// No more will come.
    pub fn close(&self) {
        self.state().closed = true;
        self.arrived.notify_all();
    }

    /// The next block; None when none came in time, or when no more will come (see `ended`).
    pub fn next(&self, wait: Duration) -> Option<Arc<Vec<u8>>> {
        let state = self.state();
        let (mut state, _) = self
            .arrived
            .wait_timeout_while(state, wait, |state| {
                state.blocks.is_empty() && !state.closed
            })
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let block = state.blocks.pop_front()?;
        state.bytes -= block.len();
        let waiting = if state.bytes <= self.limit / 2 {
            std::mem::take(&mut state.waiting)
        } else {
            Vec::new()
        };
        drop(state);
        for waker in waiting {
            waker.wake();
        }
        Some(block)
    }

    /// Everything was read.
    #[must_use]
    pub fn ended(&self) -> bool {
        let state = self.state();
        state.closed && state.blocks.is_empty()
    }

    /// Packets that were left out so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    fn full(&self) -> bool {
        self.state().bytes >= self.limit
    }

    /// Traffic has to wait for its reader.
    fn presses(&self) -> bool {
        self.lossless && self.full()
    }

    /// Whether there is no room; the task is woken when there is some.
    fn wait(&self, cx: &Context<'_>) -> bool {
        let mut state = self.state();
        let full = self.lossless && state.bytes >= self.limit && !state.closed;
        if full {
            state.waiting.push(cx.waker().clone());
        }
        full
    }
}

/// Where the plane puts its copies; of one thread.
pub struct Tap {
    block: Vec<u8>,
    /// The latest that were handed over, oldest first.
    lent: VecDeque<Arc<Vec<u8>>>,
    /// Connections look at this, rather than at every queue for every read.
    pressed: bool,
    queues: Vec<Arc<Queue>>,
    counters: Arc<Counters>,
}

impl Tap {
    pub fn new(queues: Vec<Arc<Queue>>, counters: Arc<Counters>) -> Self {
        Self {
            block: Vec::with_capacity(BLOCK_MEMORY),
            lent: VecDeque::with_capacity(LENT),
            pressed: false,
            queues,
            counters,
        }
    }

    /// Whether the connection has to wait until readers have caught up.
    pub fn must_wait(&mut self, cx: &Context<'_>) -> bool {
        if !self.pressed {
            return false;
        }
        self.pressed = self.queues.iter().any(|queue| queue.wait(cx));
        self.pressed
    }

    /// Hands over what there is. Returns whether there was something.
    pub fn flush(&mut self) -> bool {
        if self.block.is_empty() {
            return false;
        }
        let next = self.memory();
        let block = Arc::new(std::mem::replace(&mut self.block, next));
        for queue in &self.queues {
            if !queue.lossless && queue.full() {
                add(&self.counters.tap_lost_bytes, block.len() as u64);
                let packets = count_packets(&block);
                add(&self.counters.tap_lost_packets, packets);
                add(&queue.lost, packets);
            } else {
                queue.push(Arc::clone(&block));
            }
        }
        self.lent.push_back(block);
        self.pressed = self.queues.iter().any(|queue| queue.presses());
        true
    }

    /// Memory for a block: that of the oldest one lent where its readers are done with it.
    fn memory(&mut self) -> Vec<u8> {
        let mut oldest = None;
        let done = |block: &Arc<Vec<u8>>| Arc::strong_count(block) == 1;
        if self.lent.front().is_some_and(done) || self.lent.len() >= LENT {
            oldest = self.lent.pop_front();
        }
        match oldest.map(Arc::try_unwrap) {
            Some(Ok(mut memory)) if memory.capacity() >= BLOCK_MEMORY => {
                memory.clear();
                memory
            }
            _ => Vec::with_capacity(BLOCK_MEMORY),
        }
    }

    pub fn close(&mut self) {
        self.flush();
        for queue in &self.queues {
            queue.close();
        }
    }

    /// Whether the next packet is the first of a block, so that someone has to see to its flush.
    #[must_use]
    pub fn begins(&self) -> bool {
        self.block.is_empty() && !self.queues.is_empty()
    }

    fn packet(&mut self, flow: &TapFlow, direction: usize, flags: u8, data: &[u8], ts_ns: u64) {
        self.noted(flow, direction, flags, data, ts_ns, "");
    }

    /// A packet with a comment (pcapng's opt_comment, at most `NOTE` bytes of it).
    fn noted(
        &mut self,
        flow: &TapFlow,
        direction: usize,
        flags: u8,
        data: &[u8],
        ts_ns: u64,
        note: &str,
    ) {
        if self.queues.is_empty() {
            return;
        }
        put(
            &mut self.block,
            flow,
            direction,
            flags,
            data,
            ts_ns,
            note.as_bytes(),
        );
        if self.block.len() >= BLOCK {
            self.flush();
        }
    }
}

/// Adds the block of a packet, perhaps with a comment.
pub fn put(
    out: &mut Vec<u8>,
    flow: &TapFlow,
    direction: usize,
    flags: u8,
    data: &[u8],
    ts_ns: u64,
    note: &[u8],
) {
    let note = &note[..note.len().min(NOTE)];
    // Its head and the end of options, 4 bytes each.
    let options = if note.is_empty() {
        0
    } else {
        8 + note.len().div_ceil(4) * 4
    };
    let (src, dst) = (flow.ends[direction], flow.ends[1 - direction]);
    let ip = if flow.v4 { 20 } else { 40 };
    let length = ip + 20 + data.len();
    let padded = length.div_ceil(4) * 4;
    let total = (32 + padded + options) as u32;
    let word = |out: &mut Vec<u8>, value: u32| out.extend_from_slice(&value.to_le_bytes());
    for value in [
        6,
        total,
        0,
        (ts_ns >> 32) as u32,
        ts_ns as u32,
        length as u32,
        length as u32,
    ] {
        word(out, value);
    }
    let start = out.len();
    match (src.ip(), dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) if flow.v4 => {
            out.extend_from_slice(&[0x45, 0]);
            out.extend_from_slice(&(length as u16).to_be_bytes());
            out.extend_from_slice(&[0, 0, 0x40, 0, 64, 6, 0, 0]);
            out.extend_from_slice(&src.octets());
            out.extend_from_slice(&dst.octets());
            let sum = !folded(sum(0, &out[start..start + 20]));
            out[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
        }
        (src, dst) => {
            out.extend_from_slice(&[0x60, 0, 0, 0]);
            out.extend_from_slice(&((20 + data.len()) as u16).to_be_bytes());
            out.extend_from_slice(&[6, 64]);
            out.extend_from_slice(&six(src).octets());
            out.extend_from_slice(&six(dst).octets());
        }
    }
    out.extend_from_slice(&src.port().to_be_bytes());
    out.extend_from_slice(&dst.port().to_be_bytes());
    out.extend_from_slice(&flow.seq[direction].to_be_bytes());
    let acknowledged = if flags & ACK == 0 {
        0
    } else {
        flow.seq[1 - direction]
    };
    out.extend_from_slice(&acknowledged.to_be_bytes());
    out.extend_from_slice(&[0x50, flags, 0xFF, 0xFF, 0, 0, 0, 0]);
    out.extend_from_slice(data);
    out.resize(start + padded, 0);
    if !note.is_empty() {
        word(out, 1 | (note.len() as u32) << 16);
        out.extend_from_slice(note);
        out.resize(start + padded + options, 0);
    }
    word(out, total);
}

fn six(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

fn count_packets(block: &[u8]) -> u64 {
    let (mut at, mut count) = (0, 0);
    while let Some(length) = block.get(at + 4..at + 8) {
        at += u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
        count += 1;
    }
    count
}

/// The Internet checksum's sum, not folded (RFC 1071).
#[must_use]
pub fn sum(start: u64, data: &[u8]) -> u64 {
    // Four bytes at a time: what is above 16 bits is folded in the end. In the wrong order of bytes, which a sum does not
    // mind until then (section 2 B), since that is many times quicker.
    let (words, rest) = data.as_chunks::<4>();
    let mut total = 0;
    for word in words {
        total += u64::from(u32::from_le_bytes(*word));
    }
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    total += u64::from(u32::from_le_bytes(last));
    start + u64::from(folded(total).swap_bytes())
}

#[must_use]
pub fn folded(mut total: u64) -> u16 {
    while total > 0xFFFF {
        total = (total & 0xFFFF) + (total >> 16);
    }
    total as u16
}

/// Nanoseconds since 1970.
pub fn now_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64)
}

/// The sequence numbers that both sides of a connection begin with, by the time of its beginning (`initial_numbers` in
/// `zktrace/capture/write.py` is the same): those of two connections differ, as RFC 6528 wants it.
fn initial(ts_ns: u64) -> [u32; 2] {
    let mixed = ts_ns.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    [(mixed >> 32) as u32, (mixed >> 24) as u32]
}

/// A connection as the tap shows it: between the client and the server behind the proxy, as if there
/// were no proxy. Directions: 0 from the client, 1 from the server.
#[derive(Debug)]
pub struct TapFlow {
    ends: [SocketAddr; 2],
    v4: bool,
    seq: [u32; 2],
}

impl TapFlow {
    pub fn new(client: SocketAddr, server: SocketAddr) -> Self {
        let [client, server] =
            [client, server].map(|end| SocketAddr::new(end.ip().to_canonical(), end.port()));
        Self {
            ends: [client, server],
            v4: client.is_ipv4() && server.is_ipv4(),
            seq: [0, 0],
        }
    }

    /// Flags of a packet with bytes.
    pub const DATA: u8 = PSH | ACK;

    /// The number of a side's SYN.
    pub fn begin(&mut self, direction: usize, seq: u32) {
        self.seq[direction] = seq;
    }

    /// So much was said by a side.
    pub fn said(&mut self, direction: usize, flags: u8, bytes: usize) {
        let more = bytes as u32 + u32::from(flags & (SYN | FIN) != 0);
        self.seq[direction] = self.seq[direction].wrapping_add(more);
    }

    /// The client's address, the server's.
    #[must_use]
    pub fn ends(&self) -> [SocketAddr; 2] {
        self.ends
    }

    /// The three packets of the beginning.
    pub fn open(&mut self, tap: &mut Tap, ts_ns: u64) {
        self.seq = initial(ts_ns);
        tap.packet(self, 0, SYN, &[], ts_ns);
        self.seq[0] = self.seq[0].wrapping_add(1);
        tap.packet(self, 1, SYN | ACK, &[], ts_ns);
        self.seq[1] = self.seq[1].wrapping_add(1);
        tap.packet(self, 0, ACK, &[], ts_ns);
    }

    pub fn data(&mut self, tap: &mut Tap, direction: usize, data: &[u8], ts_ns: u64) {
        for part in data.chunks(CHUNK) {
            tap.packet(self, direction, PSH | ACK, part, ts_ns);
            self.seq[direction] = self.seq[direction].wrapping_add(part.len() as u32);
        }
    }

    /// What was decided about the connection: an empty packet that has it for a comment.
    pub fn note(&mut self, tap: &mut Tap, note: &str, ts_ns: u64) {
        tap.noted(self, 1, ACK, &[], ts_ns, note);
    }

    pub fn fin(&mut self, tap: &mut Tap, direction: usize, ts_ns: u64) {
        tap.packet(self, direction, FIN | ACK, &[], ts_ns);
        self.seq[direction] = self.seq[direction].wrapping_add(1);
    }

    pub fn reset(&mut self, tap: &mut Tap, direction: usize, ts_ns: u64) {
        tap.packet(self, direction, RST | ACK, &[], ts_ns);
    }
}
