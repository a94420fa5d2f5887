//! Length-prefixed frames out of one direction's bytes. `zktrace/stream/framer.py` is the reference.
//!
//! Keeps the capture time of the first and of the last byte of each frame, skips what is too large to keep, and survives
//! losses inside a frame: as long as the loss ends before the frame does, the next boundary is still known. A frame that
//! lies in one chunk is handed out in place, without a copy.

use crate::budget::{Budget, Kept};

/// A frame is kept whole up to this: jute.maxbuffer's default (0xfffff) and some slack. Of larger frames the head is
/// decoded and the rest is skipped.
pub const HEAD_MAX: usize = 1_048_576 + 4_096;
/// No ensemble is run with a larger jute.maxbuffer; a greater length is not a length.
pub const LENGTH_MAX: i32 = 64 * 1024 * 1024;

/// One frame: what was kept of its bytes, its true length, when its first and last byte were captured.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    pub head: &'a [u8],
    pub length: usize,
    pub first_ts: i64,
    pub last_ts: i64,
    /// Bytes inside it were not captured.
    pub damaged: bool,
    /// The first byte, or any, may have been sent before it was captured: the times are not certain.
    pub first_late: bool,
    pub late: bool,
}

impl<'a> Frame<'a> {
    /// A frame that lies in one chunk.
    #[inline]
    pub fn of(body: &'a [u8], ts: i64, late: bool) -> Self {
        Frame {
            head: body.get(..HEAD_MAX).unwrap_or(body),
            length: body.len(),
            first_ts: ts,
            last_ts: ts,
            damaged: false,
            first_late: late,
            late,
        }
    }

    /// Nothing of it is missing here.
    pub fn whole(&self) -> bool {
        self.head.len() == self.length
    }
}

/// A frame that did not lie in one chunk.
pub struct Joint {
    head: Vec<u8>,
    length: usize,
    first_ts: i64,
    last_ts: i64,
    damaged: bool,
    first_late: bool,
    late: bool,
}

impl Joint {
    pub fn frame(&self) -> Frame<'_> {
        Frame {
            head: &self.head,
            length: self.length,
            first_ts: self.first_ts,
            last_ts: self.last_ts,
            damaged: self.damaged,
            first_late: self.first_late,
            late: self.late,
        }
    }
}

/// What [`Framer::feed`] came to.
pub enum Fed {
    /// A frame put together from several chunks, and the position after it.
    Joint(Joint, usize),
    /// All bytes were taken.
    More,
    /// What stands where a length should be is none; the position after it.
    Lost(i32, usize),
}

/// A frame that did not end with the chunk it began in.
#[derive(Default)]
struct Partial {
    /// Bytes of the length field.
    size: [u8; 4],
    sized: usize,
    kept: Kept,
    /// Of the frame at hand; None while its length is not known.
    length: Option<usize>,
    /// Bytes of it seen or lost.
    taken: usize,
    /// A byte of it was lost: what comes later is not kept.
    frozen: bool,
    first_ts: i64,
    last_ts: i64,
    first_late: bool,
    late: bool,
}

/// Frames of one direction.
pub struct Framer {
    pub min_length: i32,
    /// Bytes that the next frame has beyond its length field (ClickHouse Keeper's handshake).
    pub extra_once: usize,
    /// Length of the frame whose length feed has read last, if the caller has not taken it.
    pub new_length: Option<usize>,
    partial: Option<Box<Partial>>,
}

impl Framer {
    pub fn new(min_length: i32) -> Self {
        Framer {
            min_length,
            extra_once: 0,
            new_length: None,
            partial: None,
        }
    }

    /// Forgets the frame at hand.
    pub fn drop_partial(&mut self, budget: &mut Budget) {
        if let Some(mut partial) = self.partial.take() {
            partial.kept.drop(budget);
        }
    }

    /// What the frame at hand holds, or will.
    pub fn cost(&self) -> usize {
        self.partial
            .as_ref()
            .map_or(0, |partial| partial.kept.charged)
    }

    /// Gives up the bytes of the frame at hand but for its head; whether there were more.
    pub fn cut(&mut self, budget: &mut Budget) -> bool {
        self.partial
            .as_mut()
            .is_some_and(|partial| partial.kept.cut(budget))
    }

    /// The body of the next frame, if all of it is at the start of `rest`: it needs no copy. Else `feed` takes it.
    #[inline]
    pub fn whole<'a>(&self, rest: &'a [u8]) -> Option<&'a [u8]> {
        if self.partial.is_some() || self.extra_once != 0 {
            return None;
        }
        let (length, behind) = rest.split_first_chunk::<4>()?;
        let length = i32::from_be_bytes(*length);
        if length < self.min_length || length > LENGTH_MAX {
            return None;
        }
        behind.get(..length as usize)
    }

    /// Takes bytes from `data[pos..]` up to the end of one frame. `late`: `ts` is not certain.
    pub fn feed(
        &mut self,
        budget: &mut Budget,
        data: &[u8],
        mut pos: usize,
        ts: i64,
        late: bool,
    ) -> Fed {
        let end = data.len();
        if pos >= end {
            return Fed::More;
        }
        let partial = self.partial.get_or_insert_with(|| {
            Box::new(Partial {
                first_ts: ts,
                last_ts: ts,
                first_late: late,
                ..Partial::default()
            })
        });
        partial.late |= late;
        partial.last_ts = partial.last_ts.max(ts);
        let length = match partial.length {
            Some(length) => length,
            None => {
                while let (Some(to), Some(from)) =
                    (partial.size.get_mut(partial.sized), data.get(pos))
                {
                    *to = *from;
                    partial.sized += 1;
                    pos += 1;
                }
                if partial.sized < 4 {
                    return Fed::More;
                }
                let length = i32::from_be_bytes(partial.size);
                if length < self.min_length || length > LENGTH_MAX {
                    self.drop_partial(budget);
                    return Fed::Lost(length, pos);
                }
                let length = length as usize + self.extra_once;
                self.extra_once = 0;
                partial.length = Some(length);
                partial.kept.begin(budget, length.min(HEAD_MAX));
                self.new_length = Some(length);
                length
            }
        };
        let take = (length - partial.taken).min(end - pos);
        if take > 0 {
            if !partial.frozen {
                let part = data.get(pos..pos + take).unwrap_or_default();
                partial.kept.add(part);
            }
            partial.taken += take;
            pos += take;
        }
        if partial.taken < length {
            return Fed::More;
        }
        match self.finish(budget) {
            Some(joint) => Fed::Joint(joint, pos),
            None => Fed::More,
        }
    }

    fn finish(&mut self, budget: &mut Budget) -> Option<Joint> {
        let mut partial = *self.partial.take()?;
        let head = std::mem::take(&mut partial.kept.buf);
        partial.kept.drop(budget);
        Some(Joint {
            head,
            length: partial.length?,
            first_ts: partial.first_ts,
            last_ts: partial.last_ts,
            damaged: partial.frozen,
            first_late: partial.first_late,
            late: partial.late,
        })
    }

    /// `missing` bytes were not captured: the frame that is over by it, if any, and whether the next boundary is still
    /// known.
    pub fn gap(&mut self, budget: &mut Budget, missing: usize) -> (Option<Joint>, bool) {
        let Some(partial) = self.partial.as_mut() else {
            return (None, false);
        };
        let Some(length) = partial.length else {
            self.drop_partial(budget);
            return (None, false);
        };
        partial.frozen = true;
        if missing <= length - partial.taken {
            partial.taken += missing;
            if partial.taken < length {
                return (None, true);
            }
            return (self.finish(budget), true);
        }
        (self.finish(budget), false)
    }
}
