//! Finding a notification's boundary on the election port: after a loss, or joined mid-stream.
//! `zktrace/stream/electionresync.py` is the reference.

use crate::packet_resync::{verdict_of, Chain};
use crate::probe::NOTIFICATION_MAX;
use crate::resync::{Scan, CERTAIN};
use crate::schema::int;

/// A notification's fields end here: before 3.4, with 3.4, since (behind it the text).
pub const OLDEST: i32 = 28;
pub const OLD: i32 = 40;
pub const FIELDS: i32 = 44;
/// Points a chain of notifications needs: one of version 2 that fits has them, or two older ones.
const POINTS: u32 = 4;
const VERSION: i32 = 2;

/// Whether a notification can be so long.
pub fn is_length(length: i32) -> bool {
    length == OLDEST || length == OLD || (FIELDS..=NOTIFICATION_MAX).contains(&length)
}

/// Offset of a notification's length, or None where none has proven itself yet.
pub fn find_notifications(scan: &mut Scan) -> Option<usize> {
    scan.search(8, |view, at| verdict_of(follow(view, at), at, POINTS))
}

/// Whether these bytes are notifications from the first to the last.
pub fn all_notifications(view: &[u8]) -> bool {
    let mut pos = 0;
    while pos < view.len() {
        match follow(view, pos) {
            Some(chain) if chain.points > 0 => pos = chain.stop,
            _ => return false,
        }
    }
    pos > 0
}

/// Follows a chain of notifications; None where it breaks.
fn follow(view: &[u8], mut pos: usize) -> Option<Chain> {
    let mut points = 0;
    let mut enough = None;
    while points < CERTAIN {
        let rest = view.get(pos..)?;
        let Some(length) = int(rest, 0) else {
            enough = Some(pos + 4);
            break;
        };
        if !is_length(length) || int(rest, 4).is_some_and(|state| !(0..4).contains(&state)) {
            return None;
        }
        if length >= FIELDS {
            let (Some(version), Some(size)) = (int(rest, 40), int(rest, 44)) else {
                enough = Some(pos + 4 + FIELDS as usize);
                break;
            };
            if version != VERSION || size != length - FIELDS {
                return None;
            }
        }
        let size = 4 + length as usize;
        if rest.len() < size {
            enough = Some(pos + size);
            break;
        }
        points += if length >= FIELDS { 4 } else { 2 };
        pos += size;
    }
    Some(Chain {
        points,
        stop: pos,
        enough,
    })
}
