//! Who a client connection has authenticated as, and never with what. `zktrace/stream/identity.py` is the reference and says
//! where it is told. Knows no connections and no times.

use crate::schema::int;

pub const AUTH_OPCODE: i32 = 100;
const SASL_OPCODE: i32 = 102;
const WHO_AM_I_OPCODE: i32 = 107;

/// Bytes of a scheme and of a name; of a user with a longer name the scheme is told.
const MAX_SCHEME: usize = 32;
const MAX_NAME: usize = 128;
/// Identities of a connection, and of an answer to whoAmI that are looked at.
const MAX_IDENTITIES: usize = 4;
const MAX_ANSWER: i32 = 64;
/// Schemes that say nothing about who it is.
const NOBODY: [&[u8]; 2] = [b"ip", b"world"];

const USERNAME: &[u8] = b"username=\"";
const GRANTED: &[u8] = b"rspauth=";

/// Whether messages of an op may name a user.
#[inline]
pub fn is_told_by(opcode: i32) -> bool {
    matches!(opcode, AUTH_OPCODE | SASL_OPCODE | WHO_AM_I_OPCODE)
}

/// Who the body of a request claims to be; None where it names nobody.
#[cold]
pub fn claimed(opcode: i32, body: &[u8]) -> Option<String> {
    match opcode {
        AUTH_OPCODE => {
            let (scheme, pos) = sized(body, 4)?;
            if scheme != b"digest" {
                return identity(scheme, b"");
            }
            let (auth, _) = sized(body, pos)?;
            // Without a colon it may be anything, a password by mistake, too.
            let colon = auth.iter().position(|byte| *byte == b':')?;
            let name = auth.get(..colon).filter(|name| !name.is_empty())?;
            identity(scheme, name)
        }
        SASL_OPCODE => {
            let (token, _) = sized(body, 0)?;
            let name = username(token).filter(|name| !name.is_empty())?;
            identity(b"sasl", &name)
        }
        _ => None,
    }
}

/// Who the connection is besides, by the body of a reply without an error.
#[cold]
pub fn granted(opcode: i32, claim: Option<&str>, body: &[u8]) -> Vec<String> {
    let fine = match opcode {
        WHO_AM_I_OPCODE => return answer(body),
        AUTH_OPCODE => true,
        SASL_OPCODE => sized(body, 0).is_some_and(|(token, _)| token.starts_with(GRANTED)),
        _ => false,
    };
    let claim = claim.filter(|_| fine).map(str::to_owned);
    claim.into_iter().collect()
}

/// Adds identities, each once; whether there were new ones.
pub fn join(known: &mut Vec<String>, more: Vec<String>) -> bool {
    let before = known.len();
    for one in more {
        if !known.contains(&one) && known.len() < MAX_IDENTITIES {
            known.push(one);
        }
    }
    known.len() > before
}

/// All identities of a connection in one text.
pub fn shown(known: &[String]) -> String {
    known.join(" + ")
}

fn answer(body: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let count = int(body, 0).unwrap_or_default().min(MAX_ANSWER);
    let mut pos = 4;
    for _ in 0..count {
        let Some((scheme, behind)) = sized(body, pos) else {
            break;
        };
        let Some((name, behind)) = sized(body, behind) else {
            break;
        };
        found.extend(identity(scheme, name));
        pos = behind;
    }
    found
}

fn identity(scheme: &[u8], name: &[u8]) -> Option<String> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.-".contains(byte);
    let known = !scheme.is_empty() && scheme.len() <= MAX_SCHEME && scheme.iter().all(plain);
    if !known || NOBODY.contains(&scheme) {
        return None;
    }
    let mut shown = String::from_utf8_lossy(scheme).into_owned();
    let text = std::str::from_utf8(name).ok();
    // Control characters have no place in a line of text.
    let text = text.filter(|text| !text.chars().any(char::is_control));
    if let Some(text) = text.filter(|text| !text.is_empty() && text.len() <= MAX_NAME) {
        shown.push(':');
        shown.push_str(text);
    }
    Some(shown)
}

/// The value of `username` in a response of DIGEST-MD5, its quotes undone.
fn username(token: &[u8]) -> Option<Vec<u8>> {
    let mut from = 0;
    loop {
        let rest = token.get(from..)?;
        let at = from + rest.windows(USERNAME.len()).position(|w| w == USERNAME)?;
        let begins = match at.checked_sub(1) {
            None => true,
            // what Python's \s is of bytes
            Some(before) => token
                .get(before)
                .is_some_and(|byte| *byte == b',' || matches!(byte, 9..=13 | 32)),
        };
        if begins {
            if let Some(name) = unquoted(token.get(at + USERNAME.len()..)?) {
                return Some(name);
            }
        }
        from = at + 1;
    }
}

/// Up to the closing quote; None where there is none.
fn unquoted(text: &[u8]) -> Option<Vec<u8>> {
    let mut name = Vec::new();
    let mut bytes = text.iter();
    loop {
        match *bytes.next()? {
            b'"' => return Some(name),
            b'\\' => name.push(*bytes.next()?),
            byte => name.push(byte),
        }
    }
}

/// A string or buffer of jute at a place, and what follows it.
fn sized(body: &[u8], pos: usize) -> Option<(&[u8], usize)> {
    let size = usize::try_from(int(body, pos)?).ok()?;
    let end = pos.checked_add(4)?.checked_add(size)?;
    Some((body.get(pos + 4..end)?, end))
}
