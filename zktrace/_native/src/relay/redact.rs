//! Takes secrets out of a client connection's bytes, in place and without changing a length: passwords of sessions,
//! credentials of `auth`, tokens of SASL become zeros. The rest, and so all that a replay needs, stays as it was.
//!
//! Works on chunks cut anywhere and holds no frame: the first bytes of each tell where its secret begins.
//! What does not look like ZooKeeper's client protocol from its first byte on passes as it is.
//! Records: ConnectRequest, ConnectResponse, RequestHeader, ReplyHeader, AuthPacket, GetSASLRequest, SetSASLResponse
//! (zookeeper.jute); opcodes: ZooDefs.OpCode.

/// The server allows 1 MiB (jute.maxbuffer), more where it is set so; beyond this it is another protocol.
const FRAME_MAX: u32 = 256 << 20;
/// SASL requests that are not answered yet; handshakes take a few, one at a time.
const SASL_MAX: usize = 64;

const AUTH: i32 = 100;
const SASL: i32 = 102;

/// The most bytes of a frame that say where its secret is, its length included.
const HEAD: usize = 32;

/// One connection, both directions.
#[derive(Debug, Default)]
pub struct Redactor {
    ways: [Way; 2],
    /// Xids of SASL requests without a reply.
    sasl: Vec<i32>,
}

#[derive(Debug)]
struct Way {
    /// Not ZooKeeper: let through.
    raw: bool,
    first: bool,
    /// Bytes of the frame so far, its four bytes of length included.
    at: u64,
    /// The first of them; zeros where the frame is shorter.
    head: [u8; HEAD],
    /// Whether its head was looked at, and where the secret is that this told of: always behind the head.
    found: bool,
    secret: Option<(u64, u64)>,
}

impl Default for Way {
    fn default() -> Self {
        Self {
            raw: false,
            first: true,
            at: 0,
            head: [0; HEAD],
            found: false,
            secret: None,
        }
    }
}

impl Way {
    fn word(&self, at: usize) -> u32 {
        u32::from_be_bytes([
            self.head[at],
            self.head[at + 1],
            self.head[at + 2],
            self.head[at + 3],
        ])
    }

    fn end(&self) -> u64 {
        4 + u64::from(self.word(0))
    }

    /// How many bytes of the frame's head tell where its secret is, as far as is known by now.
    fn wanted(&self, direction: usize) -> u64 {
        if self.at < 4 {
            return 4;
        }
        let wanted = match (direction, self.first) {
            (0, true) => 32,
            (_, true) => 24,
            (0, false) if self.at < 12 => 12,
            (0, false) if self.word(8) as i32 == AUTH => 20,
            (0, false) => 12,
            (_, false) => 8,
        };
        self.end().min(wanted)
    }
}

impl Redactor {
    /// The next bytes of a direction: 0 from the client, 1 from the server.
    pub fn pass(&mut self, direction: usize, data: &mut [u8]) {
        let mut rest = data;
        while !rest.is_empty() && !self.ways[direction].raw {
            let taken = self.part(direction, rest);
            rest = &mut rest[taken..];
        }
    }

    /// Up to where more can be said of the frame, or to its end.
    fn part(&mut self, direction: usize, data: &mut [u8]) -> usize {
        let way = &mut self.ways[direction];
        let before = way.at;
        let target = if way.found {
            way.end()
        } else {
            way.wanted(direction)
        };
        let taken = (target - before).min(data.len() as u64) as usize;
        way.at += taken as u64;
        if !way.found {
            way.head[before as usize..way.at as usize].copy_from_slice(&data[..taken]);
            if way.at == 4 && way.word(0) > FRAME_MAX {
                way.raw = true;
                return taken;
            }
            if way.at >= 4 && way.at == way.wanted(direction) {
                let secret = self.find(direction);
                let way = &mut self.ways[direction];
                way.secret = secret;
                way.found = true;
            }
        } else if let Some((from, to)) = way.secret {
            let place = |at: u64| (at.clamp(before, way.at) - before) as usize;
            data[place(from)..place(to)].fill(0);
        }
        let way = &mut self.ways[direction];
        if way.found && way.at == way.end() {
            *way = Way {
                first: false,
                ..Way::default()
            };
        }
        taken
    }

    /// Where the secret of a frame is, from its head.
    fn find(&mut self, direction: usize) -> Option<(u64, u64)> {
        let way = &self.ways[direction];
        let end = way.end();
        let (xid, opcode) = (way.word(4) as i32, way.word(8) as i32);
        match (direction, way.first) {
            // protocolVersion, lastZxidSeen, timeOut, sessionId, passwd
            (0, true) => Some(buffer(28, way.word(28), end)),
            // protocolVersion, timeOut, sessionId, passwd
            (_, true) => Some(buffer(20, way.word(20), end)),
            (0, false) if opcode == AUTH => {
                // type, scheme, auth: the scheme's length is known, and what follows it is the secret.
                // A length that leads out of the frame leaves all of it in doubt.
                let from = 20 + u64::from(way.word(16)) + 4;
                Some((if from <= end { from } else { end.min(20) }, end))
            }
            (0, false) if opcode == SASL => {
                if self.sasl.len() == SASL_MAX {
                    self.sasl.remove(0);
                }
                self.sasl.push(xid);
                Some((end.min(16), end))
            }
            (0, false) => None,
            (_, false) => {
                // xid, zxid, err, token
                let found = self.sasl.iter().position(|&one| one == xid)?;
                self.sasl.remove(found);
                Some((end.min(24), end))
            }
        }
    }
}

/// The bytes of a buffer whose length stands at `at`; all that is left where it says more.
fn buffer(at: u64, length: u32, end: u64) -> (u64, u64) {
    let from = at + 4;
    (
        from,
        end.min(from.saturating_add(u64::from(length))).max(from),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32).to_be_bytes()[..], body].concat()
    }

    fn text(value: &[u8]) -> Vec<u8> {
        frame(value)
    }

    fn connect_request() -> Vec<u8> {
        frame(&[&[0; 24][..], &text(&[7; 16]), &[1]].concat())
    }

    fn connect_response() -> Vec<u8> {
        frame(&[&[9; 16][..], &text(&[7; 16]), &[1]].concat())
    }

    fn header(xid: i32, opcode: i32) -> Vec<u8> {
        [xid.to_be_bytes(), opcode.to_be_bytes()].concat()
    }

    /// Each direction's frames, and the same with the secrets as zeros.
    fn conversation() -> [(Vec<u8>, Vec<u8>); 2] {
        let auth = |secret: &[u8]| {
            frame(
                &[
                    &header(-4, AUTH)[..],
                    &[0; 4],
                    &text(b"digest"),
                    &text(secret),
                ]
                .concat(),
            )
        };
        let sasl = |secret: &[u8]| frame(&[&header(5, SASL)[..], &text(secret)].concat());
        let get = frame(
            &[
                &header(6, 4)[..],
                &text(b"/a/long/path/that/is/no/secret/at/all"),
                &[0],
            ]
            .concat(),
        );
        let zero = |mut request: Vec<u8>, from: usize| {
            request[from..from + 16].fill(0);
            request
        };
        let ask = [
            connect_request(),
            auth(b"user:secret"),
            frame(&header(-2, 11)),
            sasl(b"token"),
            get.clone(),
        ];
        let ask_clean = [
            zero(connect_request(), 32),
            auth(&[0; 11]),
            frame(&header(-2, 11)),
            sasl(&[0; 5]),
            get,
        ];
        let reply =
            |xid: i32, body: &[u8]| frame(&[&xid.to_be_bytes()[..], &[3; 12], body].concat());
        let told = [
            connect_response(),
            reply(-4, &[]),
            reply(5, &text(b"challenge")),
            reply(6, &[8; 99]),
        ];
        let told_clean = [
            zero(connect_response(), 24),
            reply(-4, &[]),
            reply(5, &text(&[0; 9])),
            reply(6, &[8; 99]),
        ];
        [
            (ask.concat(), ask_clean.concat()),
            (told.concat(), told_clean.concat()),
        ]
    }

    #[test]
    fn secrets_become_zeros_however_the_bytes_are_cut() {
        for size in [1, 2, 3, 5, 7, 11, 36, 40, 1000] {
            let mut redactor = Redactor::default();
            for (direction, (bytes, clean)) in conversation().into_iter().enumerate() {
                let mut got = bytes.clone();
                for chunk in got.chunks_mut(size) {
                    redactor.pass(direction, chunk);
                }
                assert_eq!(got, clean, "direction {direction}, chunks of {size}");
                assert_ne!(got, bytes);
            }
        }
    }

    #[test]
    fn lengths_that_lie_stay_within_their_frame() {
        let mut redactor = Redactor::default();
        let lying = frame(&[&[1; 24][..], &[0xFF; 4], &[7; 4]].concat());
        let mut bytes = [lying, frame(&header(6, 4))].concat();
        redactor.pass(0, &mut bytes);
        assert_eq!(bytes[32..36], [0; 4]);
        assert_eq!(bytes[36..], frame(&header(6, 4)));
        let bad = frame(&[&header(-4, AUTH)[..], &[0; 4], &[0xFF; 4], b"secret"].concat());
        let mut bytes = bad.clone();
        redactor.pass(0, &mut bytes);
        assert_eq!(bytes[20..], [0; 6]);
        let mut short = frame(&[]);
        Redactor::default().pass(0, &mut short);
        assert_eq!(short, frame(&[]));
    }

    #[test]
    fn other_protocols_pass() {
        for bytes in [
            &b"ruok"[..],
            b"\x16\x03\x01\x02\x00\x01\x00\x01",
            b"GET / HTTP/1.1\r\n\r\n",
        ] {
            let mut got = bytes.to_vec();
            Redactor::default().pass(0, &mut got);
            assert_eq!(got, bytes);
        }
    }
}
