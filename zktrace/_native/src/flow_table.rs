//! What reassembly looks connections up by: keys, their hash, and the memory of ended connections.
//! Knows nothing of streams.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, Hasher};

use crate::flow_side::{distance, WINDOW};
use crate::ip::{Ip, Segment, RST, SYN};

/// More late segments with data than this mean that the connection lives.
const LATE_SEGMENTS: u32 = 64;

/// Unordered pair of endpoints: the lesser one comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    lesser: Ip,
    greater: Ip,
    ports: u32,
}

impl Key {
    /// The key of a segment, and whether its sender is the greater endpoint.
    #[inline]
    pub fn of(seg: &Segment<'_>) -> (Key, bool) {
        let upper = (seg.src, seg.sport) > (seg.dst, seg.dport);
        (Key::directed(seg, upper), upper)
    }

    /// The key of a segment of which it is known whether its sender is the greater endpoint.
    #[inline]
    pub fn directed(seg: &Segment<'_>, upper: bool) -> Key {
        let (lesser, low, greater, high) = if upper {
            (seg.dst, seg.dport, seg.src, seg.sport)
        } else {
            (seg.src, seg.sport, seg.dst, seg.dport)
        };
        let ports = u32::from(low) << 16 | u32::from(high);
        Key {
            lesser,
            greater,
            ports,
        }
    }
}

impl Hash for Key {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Equality tells the families apart; the hash need not.
        state.write_u64(self.lesser.lo);
        state.write_u64(self.greater.lo);
        state.write_u64(u64::from(self.ports));
        if self.greater.v6 {
            state.write_u64(self.lesser.hi);
            state.write_u64(self.greater.hi);
        }
    }
}

/// Multiply and fold: two instructions a word, well mixed. Seeded, since addresses and ports are
/// chosen by whoever sends packets. The seed changes no output: tables are never iterated.
#[derive(Clone)]
pub struct FoldState {
    seed: u64,
}

impl FoldState {
    fn new() -> Self {
        FoldState {
            seed: RandomState::new().build_hasher().finish(),
        }
    }
}

impl BuildHasher for FoldState {
    type Hasher = FoldHasher;

    #[inline]
    fn build_hasher(&self) -> FoldHasher {
        FoldHasher(self.seed)
    }
}

pub struct FoldHasher(u64);

/// Odd, with its bits spread: the fractional part of the golden ratio.
const FOLD: u64 = 0x9E37_79B9_7F4A_7C15;

impl Hasher for FoldHasher {
    #[inline]
    fn write_u64(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word).wrapping_mul(u128::from(FOLD));
        self.0 = (product as u64) ^ ((product >> 64) as u64) ^ word.rotate_left(32);
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    #[inline]
    fn finish(&self) -> u64 {
        let product = u128::from(self.0).wrapping_mul(u128::from(FOLD));
        (product as u64) ^ ((product >> 64) as u64)
    }
}

pub type KeyMap<V> = HashMap<Key, V, FoldState>;

pub fn key_map<V>() -> KeyMap<V> {
    HashMap::with_hasher(FoldState::new())
}

/// Slots of connections by direction: where the last segment of the same place belonged. An entry is
/// a hint: the caller compares keys. That two connections share a place costs a look at the table, no
/// more, so the places need no seed.
pub struct Recent {
    /// Slot, with the direction in the lowest bit.
    entries: Box<[u32; RECENT]>,
}

/// A power of two; a busy ensemble has some hundred connections. 16 KiB.
const RECENT: usize = 4096;

impl Default for Recent {
    fn default() -> Self {
        Recent {
            entries: Box::new([u32::MAX; RECENT]),
        }
    }
}

impl Recent {
    #[inline]
    pub fn place(seg: &Segment<'_>) -> usize {
        let ports = u64::from(seg.sport) << 16 | u64::from(seg.dport);
        // Clients differ in few low bits of address and port: spread over the high bits.
        let src = (seg.src.lo ^ seg.src.hi ^ ports << 32).wrapping_mul(FOLD);
        let dst = (seg.dst.lo ^ seg.dst.hi).rotate_left(32).wrapping_mul(FOLD);
        ((src ^ dst).wrapping_mul(FOLD) >> (u64::BITS - RECENT.ilog2())) as usize
    }

    /// A slot that may be the connection's, and whether the sender is its greater endpoint.
    #[inline]
    pub fn get(&self, place: usize) -> (u32, bool) {
        let entry = self.entries.get(place).copied().unwrap_or(u32::MAX);
        (entry >> 1, entry & 1 != 0)
    }

    #[inline]
    pub fn set(&mut self, place: usize, slot: u32, upper: bool) {
        if let Some(entry) = self.entries.get_mut(place) {
            *entry = slot << 1 | u32::from(upper);
        }
    }
}

/// What is remembered of an ended connection: sequence numbers of the start and the end of each
/// stream that was started, and whether it ended by a FIN.
pub struct Tombstone {
    pub flip: bool,
    pub sides: [Option<(u32, u32, bool)>; 2],
}

struct Grave {
    stone: Tombstone,
    late: u32,
    number: u64,
}

/// Ended connections, the oldest forgotten first.
pub struct Tombstones {
    graves: KeyMap<Grave>,
    /// In order of burial; an entry whose number differs from the map's is stale.
    order: VecDeque<(Key, u64)>,
    buried: u64,
    limit: usize,
}

impl Tombstones {
    pub fn new(limit: usize) -> Self {
        Tombstones {
            graves: key_map(),
            order: VecDeque::new(),
            buried: 0,
            limit,
        }
    }

    pub fn remove(&mut self, key: &Key) {
        if !self.graves.is_empty() {
            self.graves.remove(key);
        }
    }

    pub fn insert(&mut self, key: Key, stone: Tombstone) {
        self.buried += 1;
        let number = self.buried;
        let late = 0;
        self.graves.insert(
            key,
            Grave {
                stone,
                late,
                number,
            },
        );
        self.order.push_back((key, number));
        while self.graves.len() > self.limit {
            let Some((oldest, number)) = self.order.pop_front() else {
                break;
            };
            if self.is_current(&oldest, number) {
                self.graves.remove(&oldest);
            }
        }
        if self.order.len() > 2 * self.limit + 1024 {
            let mut order = std::mem::take(&mut self.order);
            order.retain(|(key, number)| self.is_current(key, *number));
            self.order = order;
        }
    }

    fn is_current(&self, key: &Key, number: u64) -> bool {
        self.graves
            .get(key)
            .is_some_and(|grave| grave.number == number)
    }

    /// Is this segment a late one of an ended connection? If there was one and it is not, forgets it.
    pub fn covers(&mut self, key: &Key, seg: &Segment<'_>, upper: bool) -> bool {
        let Some(grave) = self.graves.get_mut(key) else {
            return false;
        };
        let [a, b] = &grave.stone.sides;
        let side = if upper == grave.stone.flip { a } else { b };
        let late = if seg.flags & (SYN | RST) == SYN {
            side.is_some_and(|(base, ..)| base == seg.seq.wrapping_add(1))
        } else if seg.flags & RST != 0 || seg.wire_len == 0 {
            true
        } else if side.is_some_and(|(_, end, fin)| {
            let beyond = distance(seg.seq, end);
            beyond.abs() > WINDOW || (fin && beyond > 0)
        }) {
            false
        } else {
            grave.late += 1;
            grave.late <= LATE_SEGMENTS
        };
        if !late {
            self.graves.remove(key);
        }
        late
    }
}
