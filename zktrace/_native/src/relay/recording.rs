//! Writes what the tap has to files: pcapng, in a thread of its own, from the first byte.
//!
//! A block is written when it comes, whole; what a crash leaves can be read up to the last whole block. When the disk
//! is full or fails, writing is tried again until it works: meanwhile blocks wait in the queue, and a full queue stops the
//! traffic (a lossless tap) or loses packets (a lossy one); `Recording::problem` says why.
//! Secrets are taken out (`redact`), and TCP's checksums put in, before bytes reach the disk.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::redact::Redactor;
use super::tap::{folded, sum, Queue, ACK, FIN, HEADER, RST, SYN};

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
}

impl Options {
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
        let mut writer = Writer::open(options, Arc::clone(&state))?;
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
    file: File,
    number: u64,
    size: u64,
    begun: Instant,
    cleaner: Cleaner,
    /// The block as it is written; others read the one that came.
    cleaned: Vec<u8>,
}

fn create(path: &Path) -> io::Result<File> {
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
    file.write_all(&HEADER)?;
    Ok(file)
}

impl Writer {
    fn open(options: Options, state: Arc<State>) -> io::Result<Self> {
        let number = options.last()? + 1;
        let file = create(&options.file(number))?;
        state.files.store(1, Relaxed);
        let cleaner = Cleaner {
            redact: options.redact,
            data_kept: options.data_kept,
            flows: HashMap::new(),
        };
        Ok(Self {
            options,
            state,
            file,
            number,
            size: HEADER.len() as u64,
            begun: Instant::now(),
            cleaner,
            cleaned: Vec::new(),
        })
    }

    /// False: it was given up.
    fn block(&mut self, block: &[u8]) -> bool {
        let mut cleaned = std::mem::take(&mut self.cleaned);
        cleaned.clear();
        cleaned.extend_from_slice(block);
        self.cleaner.clean(&mut cleaned);
        let written = self.persist(&cleaned);
        self.cleaned = cleaned;
        written
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
            .is_some_and(|limit| self.size + block.len() as u64 > limit);
        let late = self
            .options
            .rotate_after
            .is_some_and(|limit| self.begun.elapsed() >= limit);
        if (over || late) && self.size > HEADER.len() as u64 {
            self.rotate()?;
        }
        if let Err(error) = self.file.write_all(block) {
            // A part may have been written; the next try begins where this one did.
            self.file.set_len(self.size)?;
            self.file.seek(io::SeekFrom::Start(self.size))?;
            return Err(error);
        }
        self.size += block.len() as u64;
        self.state.bytes.fetch_add(block.len() as u64, Relaxed);
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = create(&self.options.file(self.number + 1))?;
        self.number += 1;
        self.size = HEADER.len() as u64;
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
}

/// Takes secrets out of packets and puts checksums in.
struct Cleaner {
    redact: bool,
    data_kept: Option<u64>,
    flows: HashMap<Key, Flow>,
}

impl Cleaner {
    fn clean(&mut self, block: &mut [u8]) {
        let mut at = 0;
        while at + 12 <= block.len() {
            let word = |at: usize| {
                u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
            };
            let length = word(at + 4) as usize;
            if word(at) == PACKET {
                let captured = word(at + 20) as usize;
                self.packet(&mut block[at + PACKET_AT..at + PACKET_AT + captured]);
            }
            at += length;
        }
    }

    fn packet(&mut self, packet: &mut [u8]) {
        let (addresses, tcp) = if packet[0] >> 4 == 4 {
            (12..20, 20)
        } else {
            (8..40, 40)
        };
        if self.redact {
            self.secrets(packet, addresses.clone(), tcp);
        }
        // RFC 9293, 3.1: the addresses, the protocol and the length, then all of the segment.
        let head = sum(6 + (packet.len() - tcp) as u64, &packet[addresses]);
        let checksum = !folded(sum(head, &packet[tcp..]));
        packet[tcp + 16..tcp + 18].copy_from_slice(&checksum.to_be_bytes());
    }

    fn secrets(&mut self, packet: &mut [u8], addresses: Range<usize>, tcp: usize) {
        let (head, data) = packet.split_at_mut(tcp + 20);
        let flags = head[tcp + 13];
        let middle = addresses.start + addresses.len() / 2;
        let src = [&head[addresses.start..middle], &head[tcp..tcp + 2]];
        let dst = [&head[middle..addresses.end], &head[tcp + 2..tcp + 4]];
        let there = key(src, dst);
        if flags & (SYN | ACK) == SYN {
            let flow = Flow {
                redactor: Redactor::new(self.data_kept),
                ended: [false, false],
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
        flow.redactor.pass(direction, data);
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
