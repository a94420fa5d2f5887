//! Writes what the tap has to files: pcapng, in a thread of its own, from the first byte.
//!
//! A block is written when it comes, whole; what a crash leaves can be read up to the last whole block. When the disk
//! is full or fails, writing is tried again until it works: meanwhile blocks wait in the queue, and a full queue stops the
//! traffic (a lossless tap) or loses packets (a lossy one); `Recording::problem` says why.
//! Secrets are taken out (`redact`), then, where that is wanted, what a filter does not let through (`sieve`), and TCP's checksums
//! put in, before bytes reach the disk.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::facts::Ops;
use super::program::Test;
use super::redact::Redactor;
use super::sieve::Sieve;
use super::tap::{
    commented, folded, now_ns, statistics, sum, Queue, ACK, FIN, HEADER, RST, STATISTICS, SYN,
};

/// What the comment of a file's section begins with where not all is recorded (zktrace/capture/pcapng.py).
const FILTERED: &[u8] = b"zktrace filter: ";
/// How long to wait before a write that failed is tried again, and for the next block.
const PAUSE: Duration = Duration::from_millis(200);
/// The type of a block that holds a packet.
const PACKET: u32 = 6;
/// From the beginning of such a block to the packet.
const PACKET_AT: usize = 28;

/// Where and how to write.
#[derive(Clone, Debug)]
pub struct Options {
    pub path: PathBuf,
    /// A new file before one grows beyond this.
    pub rotate_bytes: Option<u64>,
    /// A new file after this time.
    pub rotate_after: Option<Duration>,
    /// Of rotated files, how many are left; the oldest are removed.
    pub keep: Option<usize>,
    /// Whether secrets are taken out.
    pub redact: bool,
    /// Of node data, so many bytes are recorded, and zeros for the others; None: all.
    pub data_kept: Option<u64>,
    /// What is recorded; None: all.
    pub filter: Option<Filter>,
}

/// An expression, as it is told in the head of each file, and compiled.
#[derive(Clone, Debug)]
pub struct Filter {
    pub expression: String,
    pub test: Test,
    pub ops: Ops,
}

impl Options {
    /// What each file begins with.
    fn head(&self) -> Vec<u8> {
        match &self.filter {
            None => HEADER.to_vec(),
            Some(filter) => {
                let told = [FILTERED, filter.expression.as_bytes()].concat();
                commented(&told)
            }
        }
    }

    fn rotates(&self) -> bool {
        self.rotate_bytes.is_some() || self.rotate_after.is_some()
    }

    /// What is before the number of a file's name, and behind it.
    fn parts(&self) -> (String, String) {
        let part = |part: Option<&std::ffi::OsStr>| {
            part.unwrap_or_default().to_string_lossy().into_owned()
        };
        let ending = part(self.path.extension());
        let dot = if ending.is_empty() { "" } else { "." };
        (
            format!("{}-", part(self.path.file_stem())),
            format!("{dot}{ending}"),
        )
    }

    /// The file with this number: the path itself, or with the number before its ending.
    #[must_use]
    pub fn file(&self, number: u64) -> PathBuf {
        if !self.rotates() {
            return self.path.clone();
        }
        let (before, behind) = self.parts();
        self.path
            .with_file_name(format!("{before}{number:05}{behind}"))
    }

    /// The highest number that a file has already; 0: none.
    fn last(&self) -> io::Result<u64> {
        if !self.rotates() {
            return Ok(0);
        }
        let folder = self
            .path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let (before, behind) = self.parts();
        let mut last = 0;
        for entry in std::fs::read_dir(folder.unwrap_or(Path::new(".")))? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            let number = name
                .strip_prefix(&before)
                .and_then(|rest| rest.strip_suffix(&behind));
            last = last.max(number.and_then(|number| number.parse().ok()).unwrap_or(0));
        }
        Ok(last)
    }
}

/// A recording under way.
pub struct Recording {
    state: Arc<State>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct State {
    bytes: AtomicU64,
    files: AtomicU64,
    problem: Mutex<Option<String>>,
    giving_up: AtomicBool,
}

impl Recording {
    /// Opens the first file, then writes in a thread of its own until the queue ends.
    pub fn start(options: Options, queue: Arc<Queue>) -> io::Result<Self> {
        let state = Arc::new(State::default());
        let mut writer = Writer::open(options, Arc::clone(&state), Arc::clone(&queue))?;
        let thread = std::thread::Builder::new()
            .name("zktrace-record".into())
            .spawn(move || {
                let mut first = true;
                while !queue.ended() {
                    let Some(block) = queue.next(PAUSE) else {
                        continue;
                    };
                    if first {
                        // Each file has a header already.
                        first = false;
                    } else if !writer.block(&block) {
                        // What follows a loss is not written: the file ends where it is whole.
                        queue.close();
                        return;
                    }
                }
                writer.finish();
            })?;
        Ok(Self {
            state,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Bytes written, files begun.
    #[must_use]
    pub fn written(&self) -> (u64, u64) {
        (
            self.state.bytes.load(Relaxed),
            self.state.files.load(Relaxed),
        )
    }

    /// Why nothing can be written at the moment.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.state
            .problem
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until all is written, which a full disk would keep from ever happening: then what is left is given up.
    pub fn finish(&self) {
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            while !thread.is_finished() {
                if self.problem().is_some() {
                    self.state.giving_up.store(true, Relaxed);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            // A panic was reported when it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.state.giving_up.store(true, Relaxed);
        self.finish();
    }
}

struct Writer {
    options: Options,
    state: Arc<State>,
    queue: Arc<Queue>,
    /// Packets that were left out before this file.
    lost: u64,
    file: File,
    number: u64,
    size: u64,
    begun: Instant,
    head: Vec<u8>,
    cleaner: Cleaner,
    sieve: Option<Sieve>,
    /// The block as it is written; others read the one that came.
    cleaned: Vec<u8>,
    /// What is left of it.
    sifted: Vec<u8>,
}

fn create(path: &Path, head: &[u8]) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // What was recorded before is never lost to a restart.
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // Traffic is its owner's.
        options.mode(0o600);
    }
    let mut file = options.open(path)?;
    file.write_all(head)?;
    Ok(file)
}

impl Writer {
    fn open(options: Options, state: Arc<State>, queue: Arc<Queue>) -> io::Result<Self> {
        let number = options.last()? + 1;
        let head = options.head();
        let file = create(&options.file(number), &head)?;
        state.files.store(1, Relaxed);
        let cleaner = Cleaner {
            redact: options.redact,
            data_kept: options.data_kept,
            flows: HashMap::new(),
        };
        let sieve = options
            .filter
            .as_ref()
            .map(|filter| Sieve::new(filter.test.clone(), filter.ops.clone()));
        Ok(Self {
            options,
            state,
            queue,
            lost: 0,
            file,
            number,
            size: head.len() as u64,
            begun: Instant::now(),
            head,
            cleaner,
            sieve,
            cleaned: Vec::new(),
            sifted: Vec::new(),
        })
    }

    /// False: it was given up.
    fn block(&mut self, block: &[u8]) -> bool {
        let mut cleaned = std::mem::take(&mut self.cleaned);
        cleaned.clear();
        cleaned.extend_from_slice(block);
        self.cleaner.clean(&mut cleaned);
        if let Some(sieve) = &mut self.sieve {
            sieve.pass(&cleaned, &mut self.sifted);
            std::mem::swap(&mut cleaned, &mut self.sifted);
            self.sifted.clear();
        }
        let written = self.sealed(&mut cleaned);
        self.cleaned = cleaned;
        written
    }

    /// What waits for replies that will not come.
    fn finish(&mut self) {
        if let Some(sieve) = &mut self.sieve {
            let mut left = Vec::new();
            sieve.finish(&mut left);
            // What cannot be written is told by `problem`.
            self.sealed(&mut left);
        }
        // Without it the file is whole, and says nothing about losses.
        let _ = self.end();
    }

    /// The end of a file: what was left out of it.
    fn end(&mut self) -> io::Result<()> {
        let lost = self.queue.lost();
        let block = statistics(lost - self.lost, now_ns());
        self.append(&block)?;
        self.lost = lost;
        Ok(())
    }

    fn append(&mut self, block: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all(block) {
            // A part may have been written; the next try begins where this one did.
            self.file.set_len(self.size)?;
            self.file.seek(io::SeekFrom::Start(self.size))?;
            return Err(error);
        }
        self.size += block.len() as u64;
        Ok(())
    }

    /// Puts checksums into packets, and writes them.
    fn sealed(&mut self, block: &mut [u8]) -> bool {
        each(block, checksum);
        block.is_empty() || self.persist(block)
    }

    fn persist(&mut self, block: &[u8]) -> bool {
        loop {
            match self.write(block) {
                Ok(()) => {
                    self.problem(None);
                    return true;
                }
                Err(error) => {
                    self.problem(Some(error.to_string()));
                    if self.state.giving_up.load(Relaxed) {
                        return false;
                    }
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    fn problem(&self, problem: Option<String>) {
        *self
            .state
            .problem
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = problem;
    }

    fn write(&mut self, block: &[u8]) -> io::Result<()> {
        let over = self
            .options
            .rotate_bytes
            .is_some_and(|limit| self.size + (block.len() + STATISTICS) as u64 > limit);
        let late = self
            .options
            .rotate_after
            .is_some_and(|limit| self.begun.elapsed() >= limit);
        if (over || late) && self.size > self.head.len() as u64 {
            self.rotate()?;
        }
        self.append(block)?;
        self.state.bytes.fetch_add(block.len() as u64, Relaxed);
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let file = create(&self.options.file(self.number + 1), &self.head)?;
        // Without it the file is whole, and says nothing about losses.
        let _ = self.end();
        self.file = file;
        self.number += 1;
        self.size = self.head.len() as u64;
        self.begun = Instant::now();
        self.state.files.fetch_add(1, Relaxed);
        if let Some(old) = self
            .options
            .keep
            .and_then(|keep| self.number.checked_sub(keep as u64))
        {
            if old > 0 {
                // It may be gone already.
                let _ = std::fs::remove_file(self.options.file(old));
            }
        }
        Ok(())
    }
}

/// Addresses and ports: the source's, the destination's; zeros after IPv4's.
type Key = [u8; 36];

/// A connection, until both sides have ended it.
#[derive(Default)]
struct Flow {
    redactor: Redactor,
    ended: [bool; 2],
    /// The numbers of the next bytes.
    came: [u32; 2],
    /// A tap that loses has left something out: where secrets are is not known any more.
    lost: bool,
}

/// Takes secrets out of packets.
struct Cleaner {
    redact: bool,
    data_kept: Option<u64>,
    flows: HashMap<Key, Flow>,
}

impl Cleaner {
    fn clean(&mut self, block: &mut [u8]) {
        if self.redact {
            each(block, |packet| self.secrets(packet));
        }
    }

    fn secrets(&mut self, packet: &mut [u8]) {
        let (addresses, tcp) = places(packet);
        let (head, data) = packet.split_at_mut(tcp + 20);
        let flags = head[tcp + 13];
        let seq = u32::from_be_bytes([head[tcp + 4], head[tcp + 5], head[tcp + 6], head[tcp + 7]]);
        let middle = addresses.start + addresses.len() / 2;
        let src = [&head[addresses.start..middle], &head[tcp..tcp + 2]];
        let dst = [&head[middle..addresses.end], &head[tcp + 2..tcp + 4]];
        let there = key(src, dst);
        if flags & (SYN | ACK) == SYN {
            let flow = Flow {
                redactor: Redactor::new(self.data_kept),
                came: [seq.wrapping_add(1), 0],
                ..Flow::default()
            };
            self.flows.insert(there, flow);
            return;
        }
        let back = key(dst, src);
        let (direction, known) = if self.flows.contains_key(&there) {
            (0, there)
        } else {
            (1, back)
        };
        let Some(flow) = self.flows.get_mut(&known) else {
            return;
        };
        if flags & SYN != 0 {
            flow.came[direction] = seq.wrapping_add(1);
        } else if !data.is_empty() {
            flow.lost |= seq != flow.came[direction];
            flow.came[direction] = seq.wrapping_add(data.len() as u32);
        }
        if flow.lost {
            data.fill(0);
        } else {
            flow.redactor.pass(direction, data);
        }
        flow.ended[direction] |= flags & FIN != 0;
        if flags & RST != 0 || flow.ended == [true, true] {
            self.flows.remove(&known);
        }
    }
}

fn key(src: [&[u8]; 2], dst: [&[u8]; 2]) -> Key {
    let mut key = [0; 36];
    let mut at = 0;
    for part in [src[0], src[1], dst[0], dst[1]] {
        key[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    key
}

/// Calls `f` with each packet of a block.
fn each(block: &mut [u8], mut f: impl FnMut(&mut [u8])) {
    let mut at = 0;
    while at + 12 <= block.len() {
        let word = |at: usize| {
            u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
        };
        let length = word(at + 4) as usize;
        if word(at) == PACKET {
            let captured = word(at + 20) as usize;
            f(&mut block[at + PACKET_AT..at + PACKET_AT + captured]);
        }
        at += length;
    }
}

/// Where the addresses of a packet are, and its TCP.
fn places(packet: &[u8]) -> (Range<usize>, usize) {
    if packet[0] >> 4 == 4 {
        (12..20, 20)
    } else {
        (8..40, 40)
    }
}

fn checksum(packet: &mut [u8]) {
    let (addresses, tcp) = places(packet);
    packet[tcp + 16..tcp + 18].fill(0);
    // RFC 9293, 3.1: the addresses, the protocol and the length, then all of the segment.
    let head = sum(6 + (packet.len() - tcp) as u64, &packet[addresses]);
    let checksum = !folded(sum(head, &packet[tcp..]));
    packet[tcp + 16..tcp + 18].copy_from_slice(&checksum.to_be_bytes());
}

/// A packet of the tap's, read.
pub struct Packet<'a> {
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub seq: u32,
    pub flags: u8,
    pub data: &'a [u8],
    pub ts_ns: u64,
    /// Its comment.
    pub note: &'a [u8],
}

/// The packets of whole blocks that the tap made.
pub fn packets(block: &[u8]) -> impl Iterator<Item = Packet<'_>> {
    let mut rest = block;
    std::iter::from_fn(move || loop {
        let length = word(rest, 4)? as usize;
        let (one, behind) = rest.split_at_checked(length)?;
        rest = behind;
        if word(one, 0) == Some(PACKET) {
            return read(one);
        }
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn read(block: &[u8]) -> Option<Packet<'_>> {
    let ts_ns = u64::from(word(block, 12)?) << 32 | u64::from(word(block, 16)?);
    // As much as there is of it: the tap cuts nothing.
    let captured = word(block, 20)? as usize;
    let packet = block.get(PACKET_AT..PACKET_AT + captured)?;
    let behind = PACKET_AT + captured.next_multiple_of(4);
    let note = match word(block, behind) {
        Some(option) if option & 0xFFFF == 1 && behind + 4 < block.len() => {
            block.get(behind + 4..behind + 4 + (option >> 16) as usize)?
        }
        _ => &[],
    };
    let (addresses, tcp) = places(packet);
    let middle = addresses.start + addresses.len() / 2;
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let end = |range: Range<usize>, at: usize| {
        let ip: IpAddr = match *packet.get(range)? {
            [a, b, c, d] => Ipv4Addr::new(a, b, c, d).into(),
            ref bytes => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical(),
        };
        Some(SocketAddr::new(ip, port(at)))
    };
    let (head, data) = packet.split_at_checked(tcp + 20)?;
    Some(Packet {
        src: end(addresses.start..middle, tcp)?,
        dst: end(middle..addresses.end, tcp + 2)?,
        seq: u32::from_be_bytes(*head.get(tcp + 4..)?.first_chunk()?),
        flags: head[tcp + 13],
        data,
        ts_ns,
        note,
    })
}
