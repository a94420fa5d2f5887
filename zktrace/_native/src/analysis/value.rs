//! Results as a tree, whatever they become: objects of Python with the shapes of `zktrace trace --json`.

/// A value; names of fields and of what is not text of the wire are known beforehand.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// Nanoseconds, shown as microseconds with up to three decimals.
    Us(i64),
    Float(f64),
    Name(&'static str),
    Text(String),
    List(Vec<Value>),
    Map(Vec<(&'static str, Value)>),
}

impl Value {
    pub fn some<T>(value: Option<T>, of: impl FnOnce(T) -> Value) -> Value {
        value.map_or(Value::None, of)
    }

    pub fn text(text: impl Into<String>) -> Value {
        Value::Text(text.into())
    }

    /// None for an empty text.
    pub fn name(name: &'static str) -> Value {
        match name {
            "" => Value::None,
            known => Value::Name(known),
        }
    }
}

/// Integers up to this have an exact f64.
const EXACT: i128 = 1 << 53;

/// A quotient rounded once, as Python's division of integers is.
pub fn quotient(dividend: i128, divisor: i128) -> f64 {
    if divisor == 0 {
        return 0.0;
    }
    if dividend.abs() <= EXACT && divisor.abs() <= EXACT {
        return dividend as f64 / divisor as f64;
    }
    let negative = (dividend < 0) != (divisor < 0);
    let (top, bottom) = (dividend.unsigned_abs(), divisor.unsigned_abs());
    // As many bits as there is room for; what is cut off is remembered in the last one.
    let shift = top.leading_zeros().saturating_sub(1);
    let shifted = top << shift;
    let cut = u128::from(shifted % bottom != 0);
    let scaled = ((shifted / bottom) | cut) as f64 / 2f64.powi(shift as i32);
    if negative {
        -scaled
    } else {
        scaled
    }
}

/// Nanoseconds as microseconds, rounded once.
pub fn us(ns: i64) -> f64 {
    quotient(i128::from(ns), 1000)
}

/// Rounded to so many decimals, half to even on the exact value, as Python's `round`.
pub fn rounded(value: f64, decimals: usize) -> f64 {
    format!("{value:.decimals$}").parse().unwrap_or(value)
}

/// A number with commas between thousands.
pub fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_as_python_does() {
        // round(2.675, 2), round(0.5, 0), round(1.5, 0), round(-2.5, 0) of Python
        assert_eq!(rounded(2.675, 2), 2.67);
        assert_eq!(rounded(0.5, 0), 0.0);
        assert_eq!(rounded(1.5, 0), 2.0);
        assert_eq!(rounded(-2.5, 0), -2.0);
        assert_eq!(us(1_234_567), 1234.567);
        assert_eq!(us(-1), -0.001);
    }

    #[test]
    fn divides_as_python_does() {
        // 9007199254740993 / 1 and (2**62 + 1) / 3 and -(10**27) / 7 of Python
        assert_eq!(quotient((1 << 53) + 1, 1), 9_007_199_254_740_992.0);
        assert_eq!(quotient((1 << 62) + 1, 3), 1.537_228_672_809_129_3e18);
        assert_eq!(quotient(-(10i128.pow(27)), 7), -1.428_571_428_571_428_6e26);
        assert_eq!(quotient(1, 3), 1.0 / 3.0);
        assert_eq!(quotient(5, 0), 0.0);
    }

    #[test]
    fn groups_digits() {
        for (number, shown) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(thousands(number), shown);
        }
    }
}
