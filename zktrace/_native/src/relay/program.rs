//! Filter expressions, compiled: asked of one frame at a time.
//!
//! They come compiled by `zktrace/analysis/filter_program.py`, whose `holds` is the reference of what they mean; the
//! language is that of every filter of zktrace. A comparison with what a frame has not is false, as there.

use std::net::{IpAddr, SocketAddr};

use super::facts::Facts;

/// True, false, or: depends on what is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tri {
    No,
    Maybe,
    Yes,
}

impl Tri {
    fn of(value: bool) -> Self {
        if value {
            Tri::Yes
        } else {
            Tri::No
        }
    }
}

/// Numbers of `Facts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    Kind,
    Opcode,
    Xid,
    Zxid,
    Error,
    Event,
    Size,
    RequestBytes,
    ReplyBytes,
    Latency,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Among,
    NotAmong,
    Below,
    Above,
}

/// An address or a network, and perhaps a port.
#[derive(Clone, Debug)]
pub struct Network {
    pub ip: IpAddr,
    pub prefix: u32,
    pub port: Option<u16>,
}

impl Network {
    fn holds(&self, address: &SocketAddr) -> bool {
        let bits = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => (u128::from(u32::from(ip)) << 96, true),
            IpAddr::V6(ip) => (u128::from(ip), false),
        };
        let ((own, v4), (other, other_v4)) = (bits(self.ip), bits(address.ip().to_canonical()));
        let mask = u128::MAX.checked_shl(128 - self.prefix).unwrap_or(0);
        v4 == other_v4
            && (own ^ other) & mask == 0
            && self.port.is_none_or(|port| port == address.port())
    }
}

/// Pieces of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Char(char),
    /// One character but a slash.
    One,
    /// Any number of them.
    Some,
    /// Anything.
    Any,
}

/// `*` within a component, `**` across, `?` one character; `\` quotes.
#[derive(Clone, Debug)]
pub struct Glob(Vec<Piece>);

impl Glob {
    #[must_use]
    pub fn new(pattern: &str) -> Self {
        let mut pieces = Vec::new();
        let mut rest = pattern.chars().peekable();
        while let Some(one) = rest.next() {
            pieces.push(match one {
                '*' if rest.next_if_eq(&'*').is_some() => Piece::Any,
                '*' => Piece::Some,
                '?' => Piece::One,
                '\\' => Piece::Char(rest.next().unwrap_or('\\')),
                other => Piece::Char(other),
            });
        }
        Self(pieces)
    }

    /// Whether it matches the whole text: all places of the pattern that can be reached, character by character.
    #[must_use]
    pub fn holds(&self, text: &str) -> bool {
        let pieces = &self.0;
        let skip = |at: &mut [bool]| {
            for (i, piece) in pieces.iter().enumerate() {
                if at[i] && matches!(piece, Piece::Some | Piece::Any) {
                    at[i + 1] = true;
                }
            }
        };
        let mut at = vec![false; pieces.len() + 1];
        at[0] = true;
        skip(&mut at);
        for one in text.chars() {
            let mut next = vec![false; pieces.len() + 1];
            for (i, piece) in pieces.iter().enumerate().filter(|(i, _)| at[*i]) {
                match piece {
                    Piece::Char(wanted) => next[i + 1] |= *wanted == one,
                    Piece::One => next[i + 1] |= one != '/',
                    Piece::Some => next[i] |= one != '/',
                    Piece::Any => next[i] = true,
                }
            }
            skip(&mut next);
            at = next;
        }
        at[pieces.len()]
    }
}

/// A compiled expression.
#[derive(Clone, Debug)]
pub enum Test {
    All(Vec<Test>),
    Any(Vec<Test>),
    Not(Box<Test>),
    Number(Number, Order, Vec<i64>),
    /// The path is one of these, or none (`bool`).
    Path(Vec<String>, bool),
    PathLike(Glob, bool),
    /// Side (0 the client), whether it must be none of them.
    Address(usize, Vec<Network>, bool),
    AddressLike(usize, Glob, bool),
    /// Bits to shift away, what is left then.
    Session(Vec<(u32, u64)>, bool),
    Watch(bool),
}

impl Test {
    /// `missing`: what a comparison is with what is not known: No (a frame), Maybe (what may yet come).
    #[must_use]
    pub fn holds(&self, facts: &Facts<'_>, missing: Tri) -> Tri {
        let known = |value: Option<bool>| value.map_or(missing, Tri::of);
        match self {
            Test::All(parts) => {
                parts
                    .iter()
                    .map(|part| part.holds(facts, missing))
                    .fold(Tri::Yes, |one, other| match (one, other) {
                        (Tri::No, _) | (_, Tri::No) => Tri::No,
                        (Tri::Yes, Tri::Yes) => Tri::Yes,
                        _ => Tri::Maybe,
                    })
            }
            Test::Any(parts) => {
                parts
                    .iter()
                    .map(|part| part.holds(facts, missing))
                    .fold(Tri::No, |one, other| match (one, other) {
                        (Tri::Yes, _) | (_, Tri::Yes) => Tri::Yes,
                        (Tri::No, Tri::No) => Tri::No,
                        _ => Tri::Maybe,
                    })
            }
            Test::Not(part) => match part.holds(facts, missing) {
                Tri::Yes => Tri::No,
                Tri::No => Tri::Yes,
                Tri::Maybe => Tri::Maybe,
            },
            Test::Number(number, order, values) => {
                // The kind of a frame that is not there is not known, either, nor a sum of which a part is to come.
                let open = match number {
                    Number::Kind => true,
                    Number::Size => facts.request_bytes.is_none() || facts.reply_bytes.is_none(),
                    _ => false,
                };
                let value = if open && missing == Tri::Maybe {
                    None
                } else {
                    value(*number, facts)
                };
                known(value.map(|value| match order {
                    Order::Among => values.contains(&value),
                    Order::NotAmong => !values.contains(&value),
                    Order::Below => values.iter().any(|limit| value < *limit),
                    Order::Above => values.iter().any(|limit| value > *limit),
                }))
            }
            Test::Path(values, not) => known(
                facts
                    .path
                    .map(|path| values.iter().any(|value| value == path) != *not),
            ),
            Test::PathLike(glob, not) => known(facts.path.map(|path| glob.holds(path) != *not)),
            Test::Address(side, networks, not) => {
                let address = end(facts, *side);
                Tri::of(networks.iter().any(|one| one.holds(&address)) != *not)
            }
            Test::AddressLike(side, glob, not) => {
                let address = end(facts, *side);
                let like = glob.holds(&address.to_string())
                    || glob.holds(&address.ip().to_canonical().to_string());
                Tri::of(like != *not)
            }
            Test::Session(wanted, not) => known(facts.session.map(|session| {
                wanted
                    .iter()
                    .any(|(shift, value)| session.checked_shr(*shift).unwrap_or(0) == *value)
                    != *not
            })),
            Test::Watch(wanted) => known(facts.watch.map(|watch| watch == *wanted)),
        }
    }
}

fn end(facts: &Facts<'_>, side: usize) -> SocketAddr {
    let address = if side == 0 {
        facts.client
    } else {
        facts.server
    };
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn value(number: Number, facts: &Facts<'_>) -> Option<i64> {
    match number {
        Number::Kind => Some(facts.kind),
        Number::Opcode => facts.opcode,
        Number::Xid => facts.xid,
        Number::Zxid => facts.zxid,
        Number::Error => facts.error,
        Number::Event => facts.event,
        Number::RequestBytes => facts.request_bytes,
        Number::ReplyBytes => facts.reply_bytes,
        Number::Size => match (facts.request_bytes, facts.reply_bytes) {
            (None, None) => None,
            (one, other) => Some(one.unwrap_or(0) + other.unwrap_or(0)),
        },
        Number::Latency => facts.latency_ns,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts<'static> {
        Facts::of(
            "10.1.2.3:4".parse().unwrap(),
            "127.0.0.1:2181".parse().unwrap(),
            None,
        )
    }

    #[test]
    fn patterns() {
        for (pattern, text, holds) in [
            ("/a/*", "/a/b", true),
            ("/a/*", "/a/b/c", false),
            ("/a/**", "/a/b/c", true),
            ("**/lock-*", "/x/y/lock-0001", true),
            ("/?", "/é", true),
            ("/?", "//", false),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("", "", true),
            ("*", "", true),
        ] {
            assert_eq!(Glob::new(pattern).holds(text), holds, "{pattern} {text}");
        }
    }

    #[test]
    fn what_is_not_known_is_false_of_frames_and_open_of_connections() {
        let path = Test::PathLike(Glob::new("/a/**"), false);
        let client = Test::Address(
            0,
            vec![Network {
                ip: "10.0.0.0".parse().unwrap(),
                prefix: 8,
                port: None,
            }],
            false,
        );
        assert_eq!(path.holds(&facts(), Tri::No), Tri::No);
        assert_eq!(path.holds(&facts(), Tri::Maybe), Tri::Maybe);
        assert_eq!(client.holds(&facts(), Tri::Maybe), Tri::Yes);
        let both = Test::All(vec![Test::Not(Box::new(client.clone())), path.clone()]);
        assert_eq!(both.holds(&facts(), Tri::Maybe), Tri::No);
        let mut frame = facts();
        frame.path = Some("/a/b");
        assert_eq!(path.holds(&frame, Tri::No), Tri::Yes);
        let not = Test::Not(Box::new(Test::Number(Number::Error, Order::Among, vec![0])));
        assert_eq!(not.holds(&frame, Tri::No), Tri::Yes);
    }
}
