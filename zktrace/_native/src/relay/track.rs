//! Where a connection is in its frames: lengths and xids, some nanoseconds a frame, on every connection.
//!
//! Rules can be given at any time, so that it must be known at any time where the next frame begins, which session this is, and
//! how many replies are due. What does not begin like ZooKeeper's client protocol (four-letter words, TLS, anything
//! else) is `raw` from then on. Frames: four bytes of length, then ConnectRequest and ConnectResponse, RequestHeader and
//! ReplyHeader (zookeeper.jute; org.apache.zookeeper.server.NIOServerCnxn).

/// The server allows 1 MiB (jute.maxbuffer), more where it is set so; beyond this it is another protocol.
pub const FRAME_MAX: u32 = 256 << 20;
/// Xid of watch events (org.apache.zookeeper.ClientCnxn).
pub const EVENT_XID: i32 = -1;
/// Length, protocolVersion, timeOut, sessionId, passwd of 16 bytes.
const HELLO: usize = 4 + 4 + 4 + 8 + 4 + 16;

/// One direction.
#[derive(Debug)]
struct Way {
    /// Bytes of the frame under way, its length included.
    at: u64,
    end: u64,
    /// Its first bytes: length and xid.
    head: [u8; 8],
    raw: bool,
    first: bool,
}

impl Default for Way {
    fn default() -> Self {
        Self {
            at: 0,
            end: 0,
            head: [0; 8],
            raw: false,
            first: true,
        }
    }
}

/// What a ConnectResponse says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    pub id: u64,
    pub timeout_ms: i32,
    pub password: [u8; 16],
}

/// Both directions: 0 from the client, 1 from the server.
#[derive(Debug)]
pub struct Track {
    ways: [Way; 2],
    hello: [u8; HELLO],
    /// None before the ConnectResponse, and when it refuses.
    pub session: Option<Session>,
    /// Requests without a reply, the ConnectRequest among them.
    pub outstanding: u64,
}

impl Default for Track {
    fn default() -> Self {
        Self {
            ways: [Way::default(), Way::default()],
            hello: [0; HELLO],
            session: None,
            outstanding: 0,
        }
    }
}

impl Track {
    /// Bytes until the next frame begins; None: not known before more of them have come.
    #[must_use]
    pub fn left(&self, from: usize) -> Option<u64> {
        let way = &self.ways[from];
        match way.at {
            0 => Some(0),
            1..4 => None,
            at => Some(way.end - at),
        }
    }

    #[must_use]
    pub fn raw(&self, from: usize) -> bool {
        self.ways[from].raw
    }

    /// Whether the next frame of this direction is its first.
    #[must_use]
    pub fn first(&self, from: usize) -> bool {
        self.ways[from].first
    }

    /// The next bytes of a direction, cut anywhere. Returns whether the session became known.
    pub fn pass(&mut self, from: usize, mut data: &[u8]) -> bool {
        let mut told = false;
        let way = &mut self.ways[from];
        while !data.is_empty() && !way.raw {
            // A frame that is there whole, as most are.
            if way.at == 0 && !way.first {
                if let Some(&[a, b, c, d, x, i, e, f]) = data.first_chunk::<8>() {
                    let end = 4 + u32::from_be_bytes([a, b, c, d]) as usize;
                    if (8..=data.len()).contains(&end) && end <= FRAME_MAX as usize {
                        if from == 0 {
                            self.outstanding += 1;
                        } else if i32::from_be_bytes([x, i, e, f]) != EVENT_XID {
                            self.outstanding = self.outstanding.saturating_sub(1);
                        }
                        data = &data[end..];
                        continue;
                    }
                }
            }
            let target = match way.at {
                0..4 => 4,
                4..8 => way.end.min(8),
                _ => way.end,
            };
            let taken = (target - way.at).min(data.len() as u64) as usize;
            let place = way.at as usize;
            if place < 8 {
                way.head[place..place + taken].copy_from_slice(&data[..taken]);
            }
            if from == 1 && way.first && place < HELLO {
                let kept = taken.min(HELLO - place);
                self.hello[place..place + kept].copy_from_slice(&data[..kept]);
            }
            way.at += taken as u64;
            data = &data[taken..];
            if place < 4 && way.at == 4 {
                let [a, b, c, d, ..] = way.head;
                let length = u32::from_be_bytes([a, b, c, d]);
                way.raw = length > FRAME_MAX;
                way.end = 4 + u64::from(length);
            }
            if way.at >= 4 && way.at == way.end {
                let [.., a, b, c, d] = way.head;
                let event = way.end >= 8 && i32::from_be_bytes([a, b, c, d]) == EVENT_XID;
                if from == 0 {
                    self.outstanding += 1;
                } else if way.first || !event {
                    self.outstanding = self.outstanding.saturating_sub(1);
                }
                if from == 1 && way.first {
                    self.session = session(&self.hello, way.end);
                    told = self.session.is_some();
                }
                *way = Way {
                    first: false,
                    ..Way::default()
                };
            }
        }
        told
    }
}

/// The session that a whole ConnectResponse, its length before it, tells of.
#[must_use]
pub fn hello(frame: &[u8]) -> Option<u64> {
    let head = frame.first_chunk::<HELLO>()?;
    session(head, frame.len() as u64).map(|session| session.id)
}

fn session(hello: &[u8; HELLO], end: u64) -> Option<Session> {
    if end < HELLO as u64 {
        return None;
    }
    let timeout_ms = i32::from_be_bytes(hello[8..12].try_into().ok()?);
    let id = u64::from_be_bytes(hello[12..20].try_into().ok()?);
    // A session that has expired is answered with zeros.
    (timeout_ms > 0).then_some(Session {
        id,
        timeout_ms,
        password: hello[24..40].try_into().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32).to_be_bytes()[..], body].concat()
    }

    #[test]
    fn frames_and_the_session_are_known_however_bytes_are_cut() {
        let ask = [
            frame(&[0; 44]),
            frame(&[0, 0, 0, 7, 0, 0, 0, 4]),
            frame(&[]),
        ]
        .concat();
        let hello = [
            &[0, 0, 0, 0, 0, 0, 0x27, 0x10][..],
            &[0, 0, 0, 0, 0, 0, 0, 9],
            &[0, 0, 0, 16],
            &[3; 16],
            &[0],
        ]
        .concat();
        let event = frame(&[0xFF; 20]);
        let told = [frame(&hello), event, frame(&[0, 0, 0, 7, 1, 2])].concat();
        for size in [1, 2, 3, 5, 9, 100] {
            let mut track = Track::default();
            ask.chunks(size).for_each(|part| {
                track.pass(0, part);
            });
            assert_eq!(track.outstanding, 3);
            let known: usize = told
                .chunks(size)
                .map(|part| usize::from(track.pass(1, part)))
                .sum();
            assert_eq!((known, track.outstanding), (1, 1));
            let session = track.session.unwrap();
            assert_eq!((session.id, session.timeout_ms), (9, 10_000));
            assert_eq!(session.password, [3; 16]);
            assert_eq!([track.left(0), track.left(1)], [Some(0); 2]);
            track.pass(0, &[0, 0]);
            assert_eq!(track.left(0), None);
            track.pass(0, &[0, 9, 1]);
            assert_eq!(track.left(0), Some(8));
        }
    }

    #[test]
    fn other_protocols_are_raw() {
        for bytes in [&b"ruok"[..], b"\x16\x03\x01\x02\x00", b"GET / HTTP"] {
            let mut track = Track::default();
            track.pass(0, bytes);
            assert!(track.raw(0));
        }
    }
}
