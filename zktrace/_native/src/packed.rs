//! Rows of a table that is kept whole, in a few 32-bit words each.
//!
//! A table of a large capture has some thirty columns, most of a row's values are small or follow from the row before, and
//! first touching memory costs more than decoding. So rows are kept as records, one behind the other in large pages, and
//! become columns when the table is asked for. Nothing of a row is lost.
//!
//! A record: two words of marks, which are the table's (what the row has, and which values follow), then the values that are
//! not zero, a word each as signed 32 bits; where one does not fit, all of the record's take two words (`WIDE`). A table
//! makes its values small by what it expects: differences to the row before, to the connection's last xid, to the last Stat
//! of the same path. Who reads makes the same guesses from the same rows, so records are read in order, from the first.
//! Behind them a table puts what few rows have, as long as it likes. A client's exchange takes 40 bytes or so, a packet
//! between servers 30, where their columns take 200. Limits: none of its own; memory grows with the rows. Knows nothing of
//! events.

use std::collections::VecDeque;

use crate::pages::prefer_large;

/// Words of the first page; each further one is four times as large, up to the last size.
const FIRST: usize = 1 << 14;
const LAST: usize = 1 << 22;

/// Words that a record is put together in, a power of two: marks, all values wide, a Stat, and some.
const ROOM: usize = 128;
/// Values of a record at most; the mark behind them is `WIDE`.
const MAX_VALUES: usize = 24;

/// Records, one behind the other.
#[derive(Default)]
pub struct Log {
    pages: VecDeque<Vec<u32>>,
    size: usize,
}

impl Log {
    /// Adds a record of two parts.
    #[inline]
    pub fn add(&mut self, record: &Record, rest: &[u32]) {
        let words = record.words.get(..record.at).unwrap_or_default();
        match self.pages.back_mut() {
            Some(page) if page.capacity() - page.len() >= ROOM + rest.len() => {
                page.extend_from_slice(words);
                page.extend_from_slice(rest);
            }
            _ => self.add_page(words, rest),
        }
    }

    #[cold]
    fn add_page(&mut self, words: &[u32], rest: &[u32]) {
        self.size = (self.size * 4).clamp(FIRST, LAST);
        let mut page = Vec::<u32>::with_capacity(self.size.max(ROOM + rest.len()));
        prefer_large(page.spare_capacity_mut());
        page.extend_from_slice(words);
        page.extend_from_slice(rest);
        self.pages.push_back(page);
    }

    /// The oldest page, which is given away; records do not go on from one to the next.
    pub fn take_page(&mut self) -> Option<Vec<u32>> {
        self.pages.pop_front()
    }
}

/// A record that is being put together, in the place of the one before.
pub struct Record {
    words: [u32; ROOM],
    at: usize,
}

impl Default for Record {
    fn default() -> Self {
        Record {
            words: [0; ROOM],
            at: 2,
        }
    }
}

impl Record {
    /// Begins a record, with room for the marks.
    #[inline(always)]
    pub fn begin(&mut self) {
        self.at = 2;
    }

    #[inline(always)]
    pub fn marks(&mut self, first: u32, second: u32) {
        self.words[0] = first;
        self.words[1] = second;
    }

    /// Appends the values that are not zero and gives the marks of which those are. `VALUES` is at most `MAX_VALUES`.
    #[inline(always)]
    pub fn put<const VALUES: usize>(&mut self, values: &[i64; VALUES]) -> u32 {
        const { assert!(VALUES <= MAX_VALUES) };
        let (mut marks, mut beyond, mut at) = (0, 0, self.at);
        for (bit, value) in values.iter().enumerate() {
            let word = *value as i32;
            beyond |= i64::from(word) ^ *value;
            self.words[at % ROOM] = word as u32;
            let some = u32::from(*value != 0);
            marks |= some << bit;
            at += some as usize;
        }
        if beyond != 0 {
            self.put_wide(values);
            return marks | 1 << VALUES;
        }
        self.at = at;
        marks
    }

    #[cold]
    #[inline(never)]
    fn put_wide(&mut self, values: &[i64]) {
        for value in values.iter().filter(|value| **value != 0) {
            self.word(*value as u32);
            self.word((*value >> 32) as u32);
        }
    }

    /// Appends those of 17 words that are not what was expected, behind a word of which those are.
    #[inline(always)]
    pub fn put_changes(&mut self, words: &[u32; 17], expected: &[u32; 17]) {
        let (place, mut at, mut marks) = (self.at, self.at + 1, 0);
        for (bit, (word, expected)) in words.iter().zip(expected).enumerate() {
            self.words[at % ROOM] = *word;
            let some = u32::from(word != expected);
            marks |= some << bit;
            at += some as usize;
        }
        self.words[place % ROOM] = marks;
        self.at = at;
    }

    #[inline]
    fn word(&mut self, word: u32) {
        self.words[self.at % ROOM] = word;
        self.at += 1;
    }
}

/// Reads the records of a page. Behind the last word there are zeros.
#[derive(Default)]
pub struct Reader {
    page: Vec<u32>,
    at: usize,
}

impl Reader {
    pub fn new(page: Vec<u32>) -> Self {
        Reader { page, at: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.at >= self.page.len()
    }

    #[inline(always)]
    pub fn word(&mut self) -> u32 {
        let word = self.page.get(self.at).copied().unwrap_or_default();
        self.at += 1;
        word
    }

    #[inline]
    pub fn long(&mut self) -> i64 {
        let low = u64::from(self.word());
        (low | u64::from(self.word()) << 32) as i64
    }

    /// What `Record::put` appended.
    #[inline(always)]
    pub fn values<const VALUES: usize>(&mut self, marks: u32) -> [i64; VALUES] {
        let mut values = [0; VALUES];
        let wide = marks >> VALUES & 1 != 0;
        for (bit, value) in values.iter_mut().enumerate() {
            if marks >> bit & 1 != 0 {
                *value = if wide {
                    self.long()
                } else {
                    i64::from(self.word() as i32)
                };
            }
        }
        values
    }

    /// What `Record::put_changes` appended, put into what was expected.
    #[inline]
    pub fn changes(&mut self, expected: &mut [u32; 17]) {
        let marks = self.word();
        for (bit, word) in expected.iter_mut().enumerate() {
            if marks >> bit & 1 != 0 {
                *word = self.word();
            }
        }
    }
}

/// A long as two words.
pub fn halves(value: i64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

/// What was last seen of connections, direct mapped by number: some are forgotten, by who writes and who reads alike.
pub struct Conns<T>(Vec<(i64, T)>);

const CONNS: usize = 1024;

impl<T: Copy + Default> Default for Conns<T> {
    fn default() -> Self {
        Conns(vec![(-1, T::default()); CONNS])
    }
}

impl<T: Copy + Default> Conns<T> {
    /// Of a connection, and whether it is new or was forgotten.
    #[inline(always)]
    pub fn of(&self, id: i64) -> (T, bool) {
        let at = id as usize % CONNS;
        match self.0.get(at) {
            Some((known, last)) if *known == id => (*last, false),
            _ => (T::default(), true),
        }
    }

    #[inline(always)]
    pub fn set(&mut self, id: i64, last: T) {
        let at = id as usize % CONNS;
        if let Some(place) = self.0.get_mut(at) {
            *place = (id, last);
        }
    }
}
