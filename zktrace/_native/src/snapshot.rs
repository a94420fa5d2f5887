//! The raw snapshot stream behind a SNAP packet, read to its end without keeping any of it.
//! `zktrace/stream/snapshots.py` is the reference: a step is "skip some bytes, then read a few".

/// Sessions and ACLs of one ensemble: more are not a count.
const COUNT_MAX: i32 = 1 << 24;
/// Largest string or buffer: no ensemble is run with a larger jute.maxbuffer.
const SIZE_MAX: i32 = 64 * 1024 * 1024;
const SIGNATURE: &[u8; 10] = b"BenWasHere";
/// A session: id, timeout.
const SESSION: u64 = 12;
/// A node's ACL (8) and StatPersisted (60).
const STAT: u64 = 68;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Sessions,
    Acls,
    Acl,
    Scheme,
    Id,
    Path,
    End,
    Data,
    Mark,
    Signature,
    Done,
    Bad,
}

/// Takes a snapshot's bytes.
pub struct SnapshotReader {
    /// The root counts, sessions and ACLs do not.
    pub nodes: u64,
    /// Bytes of the stream so far, lost ones too.
    pub bytes: u64,
    /// Bytes inside it were not captured.
    pub damaged: bool,
    state: State,
    skip: u64,
    need: usize,
    buf: [u8; 10],
    held: usize,
    acls: i32,
    ids: i32,
}

impl Default for SnapshotReader {
    fn default() -> Self {
        SnapshotReader {
            nodes: 0,
            bytes: 0,
            damaged: false,
            state: State::Sessions,
            skip: 0,
            need: 4,
            buf: [0; 10],
            held: 0,
            acls: 0,
            ids: 0,
        }
    }
}

impl SnapshotReader {
    /// The stream is over.
    pub fn done(&self) -> bool {
        self.state == State::Done
    }

    /// These bytes are no snapshot.
    pub fn broken(&self) -> bool {
        self.state == State::Bad
    }

    /// Takes bytes from `data[pos..]`; the position up to which they belong to the stream.
    pub fn feed(&mut self, data: &[u8], mut pos: usize) -> usize {
        let start = pos;
        while !matches!(self.state, State::Done | State::Bad) {
            let left = data.len().saturating_sub(pos);
            let take = usize::try_from(self.skip).map_or(left, |skip| skip.min(left));
            self.skip -= take as u64;
            pos += take;
            if self.skip > 0 {
                break;
            }
            let want = self.need.saturating_sub(self.held).min(left - take);
            let (Some(to), Some(from)) = (
                self.buf.get_mut(self.held..self.held + want),
                data.get(pos..pos + want),
            ) else {
                break;
            };
            to.copy_from_slice(from);
            self.held += want;
            pos += want;
            if self.held < self.need {
                break;
            }
            self.held = 0;
            self.step();
        }
        self.bytes += (pos - start) as u64;
        pos
    }

    /// `missing` bytes were not captured; whether it is still known what comes next.
    pub fn gap(&mut self, missing: u64) -> bool {
        self.damaged = true;
        if missing > self.skip {
            return false;
        }
        self.skip -= missing;
        self.bytes += missing;
        true
    }

    fn step(&mut self) {
        let [a, b, c, d, ..] = self.buf;
        match self.state {
            State::Signature => {
                self.state = if self.buf == *SIGNATURE {
                    State::Done
                } else {
                    State::Bad
                };
                return;
            }
            State::End => {
                // the lone path "/"; another path of one byte there is not
                self.expect(if a == b'/' { State::Mark } else { State::Bad }, 4);
                return;
            }
            _ => {}
        }
        let size = i32::from_be_bytes([a, b, c, d]);
        let limit = match self.state {
            State::Sessions | State::Acls | State::Acl => COUNT_MAX,
            _ => SIZE_MAX,
        };
        if size < -1 || size > limit {
            self.state = State::Bad;
            return;
        }
        let count = size.max(0);
        let bytes = count as u64;
        match self.state {
            State::Sessions => {
                self.skip = bytes * SESSION;
                self.expect(State::Acls, 4);
            }
            State::Acls => {
                self.acls = count;
                self.next_acl();
            }
            State::Acl => {
                self.ids = count;
                self.next_id();
            }
            State::Scheme => {
                self.skip = bytes;
                self.expect(State::Id, 4);
            }
            State::Id => {
                self.next_id();
                self.skip += bytes;
            }
            State::Path if size == 1 => self.expect(State::End, 1),
            State::Path if size < 0 => self.state = State::Bad,
            State::Path => {
                self.skip = bytes;
                self.expect(State::Data, 4);
            }
            State::Data => {
                self.nodes += 1;
                self.skip = bytes + STAT;
                self.expect(State::Path, 4);
            }
            State::Mark if size as usize == SIGNATURE.len() => {
                self.expect(State::Signature, SIGNATURE.len());
            }
            _ => self.state = State::Bad,
        }
    }

    fn expect(&mut self, state: State, need: usize) {
        self.state = state;
        self.need = need;
    }

    fn next_acl(&mut self) {
        if self.acls > 0 {
            self.acls -= 1;
            self.skip = 8; // the id that nodes refer to
            self.expect(State::Acl, 4);
        } else {
            self.skip = 0;
            self.expect(State::Path, 4);
        }
    }

    fn next_id(&mut self) {
        if self.ids > 0 {
            self.ids -= 1;
            self.skip = 4; // perms
            self.expect(State::Scheme, 4);
        } else {
            self.next_acl();
        }
    }
}
