//! What is held on behalf of all connections of a capture together, and the limit of it. `zktrace/stream/budget.py` is
//! the reference and says why: costs are the same here and there, so that both engines give up the same.

/// What all connections may hold together, each one's own state included.
const TOTAL: usize = 32 * 1024 * 1024;
/// Of that, what a connection costs before it holds anything.
const CONNECTION_COST: usize = 1_024;
/// What may be held however many connections there are.
const HELD_MIN: usize = 4 * 1024 * 1024;

/// A piece of bytes that waits, beside its bytes.
pub const PIECE_COST: usize = 160;
/// A piece of bytes whose boundaries are looked for: its time.
pub const MARK_COST: usize = 32;
/// A request that waits for its reply, beside its path; each part of a multi, beside its path.
pub const PENDING_COST: usize = 320;
pub const PART_COST: usize = 64;
/// An unfinished message that gave up its bytes keeps so many.
const CUT_HEAD: usize = 96;

/// Bytes held by all connections of one capture.
#[derive(Debug)]
pub struct Budget {
    used: usize,
    limit: usize,
    /// Messages that gave up their bytes.
    pub cut: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Budget {
            used: 0,
            limit: TOTAL,
            cut: 0,
        }
    }
}

impl Budget {
    /// Somebody must give up what it holds.
    #[inline]
    pub fn is_over(&self) -> bool {
        self.used > self.limit
    }

    /// Enough was given up that it does not happen at every packet.
    pub fn is_enough(&self) -> bool {
        self.used <= self.limit / 4 * 3
    }

    /// There are so many connections now.
    pub fn shared_by(&mut self, connections: usize) {
        let costs = connections.saturating_mul(CONNECTION_COST);
        self.limit = TOTAL.saturating_sub(costs).max(HELD_MIN);
    }

    /// So much more is held.
    #[inline]
    pub fn take(&mut self, cost: usize) {
        self.used += cost;
    }

    /// So much less is held.
    #[inline]
    pub fn release(&mut self, cost: usize) {
        self.used -= cost;
    }

    /// What is held changed from what it was.
    pub fn change(&mut self, was: usize, now: usize) {
        self.used = self.used + now - was;
    }
}

/// Appends bytes; the buffer grows by a quarter, since what it has in reserve is held, too.
pub fn append(buf: &mut Vec<u8>, data: &[u8]) {
    if buf.capacity() - buf.len() < data.len() {
        buf.reserve_exact(data.len().max(buf.len() / 4));
    }
    buf.extend_from_slice(data);
}

/// What is kept of the unfinished message of a direction: its first `most` bytes.
#[derive(Default)]
pub struct Kept {
    pub buf: Vec<u8>,
    most: usize,
    /// What the budget was told.
    pub charged: usize,
}

impl Kept {
    /// So many bytes may come.
    pub fn begin(&mut self, budget: &mut Budget, most: usize) {
        self.most = most;
        self.charged = most;
        budget.take(most);
    }

    /// Takes bytes, as much of them as is kept.
    pub fn add(&mut self, data: &[u8]) {
        let room = self.most.saturating_sub(self.buf.len());
        append(&mut self.buf, data.get(..room).unwrap_or(data));
    }

    /// Nothing is kept any more.
    pub fn drop(&mut self, budget: &mut Budget) {
        budget.release(self.charged);
        *self = Kept::default();
    }

    /// Gives up all but a small head; whether that is less than what would have been kept.
    pub fn cut(&mut self, budget: &mut Budget) -> bool {
        budget.release(self.charged);
        self.charged = 0;
        if self.most <= CUT_HEAD {
            return false;
        }
        budget.cut += 1;
        self.most = CUT_HEAD;
        // a copy, so that what is given back is one piece
        self.buf = self.buf.get(..CUT_HEAD).unwrap_or(&self.buf).to_vec();
        true
    }
}
