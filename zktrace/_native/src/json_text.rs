//! Values as JSON, by the rules of `zktrace/export/jsonl.py`: strings escaped so that no reader splits a line
//! and no terminal obeys one, zxids and session ids as hexadecimal strings, latencies in microseconds.

/// A number or null.
pub trait Nullable {
    fn get(self) -> Option<i64>;
}

impl Nullable for Option<i64> {
    #[inline]
    fn get(self) -> Option<i64> {
        self
    }
}

impl Nullable for Option<i32> {
    #[inline]
    fn get(self) -> Option<i64> {
        self.map(i64::from)
    }
}

const NULL: &[u8] = b"null";

#[inline]
pub fn number<N: Nullable>(out: &mut Vec<u8>, value: N) {
    match value.get() {
        Some(value) => {
            if value < 0 {
                out.push(b'-');
            }
            digits(out, value.unsigned_abs());
        }
        None => out.extend_from_slice(NULL),
    }
}

/// Two digits of every number below 100.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
};

/// Decimal digits, made two at a time: half of what a line costs is its numbers.
#[inline]
fn digits(out: &mut Vec<u8>, mut value: u64) {
    let mut buffer = [[0u8; 2]; 10];
    let mut used = 0;
    for pair in buffer.iter_mut().rev() {
        used += 2;
        *pair = PAIRS[(value % 100) as usize];
        if value < 10 {
            used -= 1;
        }
        value /= 100;
        if value == 0 {
            break;
        }
    }
    let digits = buffer.as_flattened();
    out.extend_from_slice(digits.get(digits.len() - used..).unwrap_or_default());
}

#[inline]
pub fn boolean(out: &mut Vec<u8>, value: Option<bool>) {
    out.extend_from_slice(match value {
        Some(true) => b"true",
        Some(false) => b"false",
        None => NULL,
    });
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// At least `width` hexadecimal digits of an unsigned value, as a string after 0x.
#[inline]
fn hexadecimal(out: &mut Vec<u8>, value: u64, width: usize) {
    let used = (64 - value.leading_zeros() as usize).div_ceil(4);
    let mut buffer = [0u8; 16];
    for (i, slot) in buffer.iter_mut().enumerate() {
        *slot = HEX[(value >> (60 - 4 * i)) as usize & 15];
    }
    out.extend_from_slice(b"\"0x");
    out.extend_from_slice(buffer.get(16 - used.max(width)..).unwrap_or_default());
    out.push(b'"');
}

/// A zxid.
#[inline]
pub fn hex(out: &mut Vec<u8>, value: Option<i64>) {
    match value {
        Some(value) => hexadecimal(out, value as u64, 1),
        None => out.extend_from_slice(NULL),
    }
}

/// A session id.
#[inline]
pub fn session(out: &mut Vec<u8>, value: Option<i64>) {
    match value {
        Some(value) => hexadecimal(out, value as u64, 16),
        None => out.extend_from_slice(NULL),
    }
}

/// Nanoseconds as microseconds, with up to three decimals.
pub fn latency_us(out: &mut Vec<u8>, ns: Option<i64>) {
    let Some(ns) = ns else {
        out.extend_from_slice(NULL);
        return;
    };
    if ns < 0 {
        out.push(b'-');
    }
    let ns = ns.unsigned_abs();
    digits(out, ns / 1000);
    let rest = (ns % 1000) as u16;
    if rest > 0 {
        let decimals = [rest / 100, rest / 10 % 10, rest % 10].map(|digit| b'0' + digit as u8);
        out.push(b'.');
        let shown = match decimals {
            [_, b'0', b'0'] => 1,
            [_, _, b'0'] => 2,
            _ => 3,
        };
        out.extend_from_slice(decimals.get(..shown).unwrap_or_default());
    }
}

/// Whether a byte of UTF-8 may need an escape: those of ASCII that do, and the first bytes of characters
/// that might (C1 controls start with C2, the other marks with E2 and EF).
const SUSPICIOUS: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = true;
        byte += 1;
    }
    table[b'"' as usize] = true;
    table[b'\\' as usize] = true;
    table[0x7f] = true;
    table[0xc2] = true;
    table[0xe2] = true;
    table[0xef] = true;
    table
};

fn escaped(character: char) -> bool {
    matches!(
        character,
        '"' | '\\' | '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' | '\u{feff}'
    )
}

/// A JSON string.
pub fn text(out: &mut Vec<u8>, value: &str) {
    out.push(b'"');
    if value.bytes().any(|byte| SUSPICIOUS[usize::from(byte)]) {
        for character in value.chars() {
            if escaped(character) {
                escape(out, character);
            } else {
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
    } else {
        out.extend_from_slice(value.as_bytes());
    }
    out.push(b'"');
}

fn escape(out: &mut Vec<u8>, character: char) {
    let short = match character {
        '"' => b'"',
        '\\' => b'\\',
        '\x08' => b'b',
        '\x0c' => b'f',
        '\n' => b'n',
        '\r' => b'r',
        '\t' => b't',
        _ => {
            // All of them are in the basic plane.
            let code = character as u32 as usize;
            out.extend_from_slice(b"\\u");
            for shift in [12, 8, 4, 0] {
                out.push(HEX[code >> shift & 15]);
            }
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers() {
        for value in [
            0,
            7,
            9,
            10,
            99,
            100,
            101,
            999,
            1000,
            -1,
            -10,
            1_234_567,
            i64::MAX,
            i64::MIN,
        ] {
            assert_eq!(made(|out| number(out, Some(value))), value.to_string());
        }
        assert_eq!(made(|out| number(out, None::<i32>)), "null");
    }

    #[test]
    fn hexadecimals() {
        for value in [0, 1, 0x1_0000_0002, -1, i64::MIN] {
            assert_eq!(made(|out| hex(out, Some(value))), format!("\"{value:#x}\""));
            assert_eq!(
                made(|out| session(out, Some(value))),
                format!("\"0x{value:016x}\"")
            );
        }
    }

    #[test]
    fn latencies() {
        for (ns, shown) in [
            (0, "0"),
            (1, "0.001"),
            (1000, "1"),
            (1500, "1.5"),
            (1520, "1.52"),
            (12_345, "12.345"),
            (-1500, "-1.5"),
            (i64::MIN, "-9223372036854775.808"),
        ] {
            assert_eq!(made(|out| latency_us(out, Some(ns))), shown);
        }
    }

    #[test]
    fn strings() {
        for (value, shown) in [
            ("/a", "\"/a\""),
            ("\"\\\n\u{1}", "\"\\\"\\\\\\n\\u0001\""),
            ("/ключ/鍵/é/😀", "\"/ключ/鍵/é/😀\""),
            ("\u{9b}\u{7f}\u{202e}", "\"\\u009b\\u007f\\u202e\""),
            ("\u{2028}€\u{feff}\u{ff01}", "\"\\u2028€\\ufeff\u{ff01}\""),
        ] {
            assert_eq!(made(|out| text(out, value)), shown);
        }
    }
}
