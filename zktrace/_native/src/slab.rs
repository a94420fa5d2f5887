//! Memory of finished columns: put one behind the other into large pieces that are shared by all of them.
//!
//! A column by itself would be an allocation that is grown, touched page by page and given back. Here columns take room
//! for the rows that are expected and are filled in place; a piece whose columns were all let go is used again. When all
//! tables of a capture are kept, page faults would cost more than decoding: pieces are large, of large pages. Knows
//! nothing of what it holds.

use arrow_buffer::Buffer;
use bytes::BytesMut;

use crate::pages::prefer_large;

/// What Arrow recommends; every type of a column is content with it.
const ALIGN: usize = 64;
/// The first piece; each further one is four times as large, up to the last size.
const FIRST: usize = 256 << 10;
const LAST: usize = 16 << 20;

#[derive(Default)]
pub struct Slab {
    piece: BytesMut,
    /// The piece before: consumers that take batch after batch have let go of it when this one is full.
    before: BytesMut,
    size: usize,
}

impl Slab {
    /// Room for so many bytes, aligned, with nothing in it yet.
    pub fn room(&mut self, bytes: usize) -> BytesMut {
        let padded = bytes.next_multiple_of(ALIGN);
        if self.piece.capacity() < padded + ALIGN {
            self.renew(padded + ALIGN);
        }
        // the piece is empty: room is split off its front
        let address = self.piece.as_ptr().addr();
        let padding = address.next_multiple_of(ALIGN) - address;
        if padding > 0 {
            self.piece = self.piece.split_off(padding);
        }
        let rest = self.piece.split_off(padded);
        std::mem::replace(&mut self.piece, rest)
    }

    /// A copy of these bytes.
    pub fn put(&mut self, bytes: &[u8]) -> Buffer {
        if bytes.is_empty() {
            return Buffer::from(Vec::<u8>::new());
        }
        let mut room = self.room(bytes.len());
        room.extend_from_slice(bytes);
        Buffer::from(room.freeze())
    }

    /// Takes a piece that has room.
    #[cold]
    fn renew(&mut self, room: usize) {
        std::mem::swap(&mut self.piece, &mut self.before);
        if self.piece.try_reclaim(room) {
            return;
        }
        self.size = (self.size * 4).clamp(FIRST, LAST);
        self.piece = BytesMut::with_capacity(self.size.max(room));
        prefer_large(self.piece.spare_capacity_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_was_put_apart() {
        let mut slab = Slab::default();
        let bytes = |i: usize| vec![i as u8; i * 7 % 3000];
        let buffers: Vec<Buffer> = (0..2000).map(|i| slab.put(&bytes(i))).collect();
        for (i, buffer) in buffers.iter().enumerate() {
            assert_eq!(buffer.as_slice(), bytes(i));
            assert!(buffer.is_empty() || buffer.as_ptr().addr() % ALIGN == 0);
        }
        assert!(slab.put(&vec![1; 3 * LAST]).iter().all(|byte| *byte == 1));
    }

    #[test]
    fn uses_pieces_again() {
        let mut slab = Slab::default();
        for i in 0..1000 {
            let buffer = slab.put(&[i as u8; 10_000]);
            assert_eq!(buffer.len(), 10_000);
        }
        assert!(slab.size <= 4 * FIRST, "{}", slab.size);
    }
}
