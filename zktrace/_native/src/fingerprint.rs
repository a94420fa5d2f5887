//! The shape of a path: what a program counted, drew or took from a host is left out of its name.
//!
//! The rules are written in `zktrace/analysis/fingerprint.py`; this is the same. One pass, no
//! allocation but of the result. Knows nothing of events.

/// So many hex digits are an identifier; shorter ones are words such as `cafe1`.
const HEX_DIGITS: usize = 8;
/// `%010d` of the counter in a sequential znode's name.
const SEQUENCE_DIGITS: usize = 10;
/// Hex digits between the dashes of a UUID.
const UUID: [usize; 5] = [8, 4, 4, 4, 12];

fn run(bytes: &[u8], class: impl Fn(&u8) -> bool) -> usize {
    bytes.iter().take_while(|byte| class(byte)).count()
}

/// Whether a name that begins with `used` bytes of something ends there as a word would.
fn ends(bytes: &[u8], used: usize) -> bool {
    !bytes.get(used).is_some_and(u8::is_ascii_alphanumeric)
}

/// Length of the UUID at the beginning.
fn uuid(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    for (i, digits) in UUID.into_iter().enumerate() {
        if i > 0 {
            if bytes.get(at) != Some(&b'-') {
                return None;
            }
            at += 1;
        }
        let part = bytes.get(at..at + digits)?;
        if !part.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        at += digits;
    }
    ends(bytes, at).then_some(at)
}

/// Length of the IPv4 address at the beginning.
fn ipv4(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    for i in 0..4 {
        if i > 0 {
            if bytes.get(at) != Some(&b'.') {
                return None;
            }
            at += 1;
        }
        let digits = run(bytes.get(at..)?, u8::is_ascii_digit);
        if !(1..=3).contains(&digits) {
            return None;
        }
        at += digits;
    }
    ends(bytes, at).then_some(at)
}

fn is_hex(word: &[u8]) -> bool {
    if let [b'0', b'x' | b'X', digits @ ..] = word {
        if !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit) {
            return true;
        }
    }
    word.len() >= HEX_DIGITS
        && word.iter().all(u8::is_ascii_hexdigit)
        && word.iter().any(u8::is_ascii_digit)
        && word.iter().any(u8::is_ascii_alphabetic)
}

/// What is left of a word.
fn word(out: &mut Vec<u8>, word: &[u8], after_colon: bool, last: bool) {
    let digits = run_back(word);
    if digits == word.len() {
        let shape: &[u8] = match (after_colon, last && digits == SEQUENCE_DIGITS) {
            (true, _) => b"<port>",
            (false, true) => b"<seq>",
            (false, false) => b"<n>",
        };
        out.extend_from_slice(shape);
    } else if is_hex(word) {
        out.extend_from_slice(b"<hex>");
    } else if digits == 0 {
        out.extend_from_slice(word);
    } else if last && digits >= SEQUENCE_DIGITS {
        let kept = word.len() - SEQUENCE_DIGITS;
        out.extend_from_slice(word.get(..kept).unwrap_or_default());
        out.extend_from_slice(b"<seq>");
    } else {
        let kept = word.len() - digits;
        out.extend_from_slice(word.get(..kept).unwrap_or_default());
        out.extend_from_slice(b"<n>");
    }
}

/// Digits at the end.
fn run_back(word: &[u8]) -> usize {
    let back = word.iter().rev();
    back.take_while(|byte| byte.is_ascii_digit()).count()
}

/// The shape of a path, written over `out`.
pub fn fingerprint(path: &[u8], out: &mut Vec<u8>) {
    out.clear();
    let mut rest = path;
    let mut before = b'/';
    while let Some(&byte) = rest.first() {
        if !byte.is_ascii_alphanumeric() {
            out.push(byte);
            before = byte;
            rest = rest.get(1..).unwrap_or_default();
            continue;
        }
        let used = if let Some(used) = uuid(rest) {
            out.extend_from_slice(b"<uuid>");
            used
        } else if let Some(used) = ipv4(rest) {
            out.extend_from_slice(b"<ip>");
            used
        } else {
            let used = run(rest, u8::is_ascii_alphanumeric);
            let last = rest.get(used).is_none_or(|&byte| byte == b'/');
            word(
                out,
                rest.get(..used).unwrap_or_default(),
                before == b':',
                last,
            );
            used
        };
        before = b'0';
        rest = rest.get(used..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        let shape = |path: &str| {
            let mut out = Vec::new();
            fingerprint(path.as_bytes(), &mut out);
            String::from_utf8(out).unwrap()
        };
        for (path, expected) in [
            ("/", "/"),
            ("", ""),
            ("/locks/lock-0000000012", "/locks/lock-<seq>"),
            ("/a/0000000012/b", "/a/<seq>/b"),
            ("/10.0.0.1:2181", "/<ip>:<port>"),
            ("/brokers/ids/3", "/brokers/ids/<n>"),
            ("/x/0x100001e10f50000", "/x/<hex>"),
        ] {
            assert_eq!(shape(path), expected);
        }
    }
}
