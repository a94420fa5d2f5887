//! Transactions: what the data of a PROPOSAL or INFORM says, without keeping what it holds.
//! `zktrace/stream/txns.py` is the reference. The layouts come from the schema's text.

use crate::schema::{int, long, Schema, ERROR_TYPE};

/// TxnHeader: session, cxid, zxid, time, type.
pub const HEADER: usize = 32;
pub const INNER_ZXID: usize = 12;
const TYPE: usize = 28;
/// TxnDigest: version, digest of the whole tree.
pub const DIGEST: usize = 12;
const RUNTIME_INCONSISTENCY: i32 = -2;

/// One or more fields of a body.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Skip(usize),
    Path,
    Error,
    Timeout,
    Sized,
    Vec(Vec<Step>),
    Parts,
}

/// Types are found without hashing from here on.
const FIRST: i32 = -16;
const DIRECT: usize = 64;

/// Layouts of bodies by type, likeliest first.
#[derive(Default)]
pub struct TxnTable {
    types: Vec<Option<Vec<Vec<Step>>>>,
}

impl TxnTable {
    /// Adds a line `<type> <name> <steps>`.
    pub fn line(&mut self, rest: &str) -> Option<()> {
        let mut words = rest.split(' ');
        let (kind, _name, text) = (words.next()?, words.next()?, words.next()?);
        let place = place(kind.parse().ok()?)?;
        if self.types.len() < DIRECT {
            self.types.resize_with(DIRECT, || None);
        }
        let layouts = self.types.get_mut(place)?.get_or_insert_default();
        layouts.push(parse(text)?);
        words.next().is_none().then_some(())
    }

    #[inline]
    fn layouts(&self, kind: i32) -> Option<&[Vec<Step>]> {
        self.types.get(place(kind)?)?.as_deref()
    }

    #[inline]
    pub fn knows(&self, kind: i32) -> bool {
        self.layouts(kind).is_some()
    }
}

fn place(kind: i32) -> Option<usize> {
    usize::try_from(kind.wrapping_sub(FIRST))
        .ok()
        .filter(|place| *place < DIRECT)
}

fn parse(text: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut rest = if text == "-" { "" } else { text };
    while !rest.is_empty() {
        if let Some(body) = rest.strip_prefix("vec(") {
            // vectors in vectors there are not
            let (inner, behind) = body.split_once(')')?;
            steps.push(Step::Vec(parse(inner)?));
            rest = behind.strip_prefix(',').unwrap_or(behind);
            continue;
        }
        let (step, behind) = rest.split_once(',').unwrap_or((rest, ""));
        let step = match step {
            "int" => Step::Skip(4),
            "long" => Step::Skip(8),
            "bool" => Step::Skip(1),
            "int:error" => Step::Error,
            "int:timeout_ms" => Step::Timeout,
            "ustring:path" => Step::Path,
            "ustring" | "buffer" => Step::Sized,
            "multitxn" => Step::Parts,
            _ => return None,
        };
        match (steps.last_mut(), step) {
            (Some(Step::Skip(so_far)), Step::Skip(more)) => *so_far += more,
            (_, step) => steps.push(step),
        }
        rest = behind;
    }
    Some(steps)
}

/// One part of a multi.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    pub kind: i32,
    pub path: Option<&'a [u8]>,
    pub error: Option<i32>,
}

/// What a body holds that events show.
#[derive(Default, Debug, PartialEq, Eq)]
pub struct Body<'a> {
    pub path: Option<&'a [u8]>,
    pub error: Option<i32>,
    pub timeout_ms: Option<i32>,
    pub parts: Option<Vec<Part<'a>>>,
    pub digest: Option<i64>,
}

impl Body<'_> {
    /// A failed multi's error: that of the first part that does not just say that another one failed.
    pub fn multi_error(&self) -> Option<i32> {
        let mut found = None;
        for error in self
            .parts
            .iter()
            .flatten()
            .filter_map(|part: &Part<'_>| part.error)
        {
            if error != 0 && error != RUNTIME_INCONSISTENCY {
                return Some(error);
            }
            if matches!(found, None | Some(0)) {
                found = Some(error);
            }
        }
        found
    }
}

/// Session, cxid and type of a TxnHeader.
#[inline]
pub fn header(data: &[u8], pos: usize) -> Option<(i64, i32, i32)> {
    let header = data.get(pos..)?.get(..HEADER)?;
    Some((long(header, 0)?, int(header, 8)?, int(header, TYPE)?))
}

/// The body of a txn of a type at `data[pos..]`, and whether it fits. `length`: where the data would end if all of it
/// had been kept; what was not kept cannot be wrong.
#[inline]
pub fn scan<'a>(
    schema: &Schema,
    kind: i32,
    data: &'a [u8],
    pos: usize,
    length: usize,
) -> (Body<'a>, bool) {
    let mut first = None;
    for layout in schema.txns.layouts(kind).unwrap_or_default() {
        let mut body = Body::default();
        let end = walk(schema, layout, data, pos, &mut body);
        if length > data.len() {
            return (body, true);
        }
        if let Some(end) = end {
            if length == end {
                return (body, true);
            }
            if length - end == DIGEST {
                body.digest = long(data, end + 4);
                return (body, true);
            }
        }
        if first.is_none() {
            first = Some(body);
        }
    }
    (first.unwrap_or_default(), false)
}

/// The position after the last field, None where one does not fit.
fn walk<'a>(
    schema: &Schema,
    layout: &[Step],
    data: &'a [u8],
    mut pos: usize,
    out: &mut Body<'a>,
) -> Option<usize> {
    for step in layout {
        match step {
            Step::Skip(count) => {
                pos += count;
                if pos > data.len() {
                    return None;
                }
            }
            Step::Error => {
                out.error = Some(int(data, pos)?);
                pos += 4;
            }
            Step::Timeout => {
                out.timeout_ms = Some(int(data, pos)?);
                pos += 4;
            }
            Step::Path | Step::Sized => {
                let size = size(data, pos)?;
                let start = pos + 4;
                pos = start + size;
                let bytes = data.get(start..pos)?;
                if *step == Step::Path {
                    out.path = Some(bytes);
                }
            }
            Step::Vec(inner) => {
                let count = size(data, pos)?;
                pos += 4;
                // every element has a length or more: a count cannot ask for more work than its bytes
                if count > (data.len() - pos) / 4 {
                    return None;
                }
                for _ in 0..count {
                    pos = walk(schema, inner, data, pos, out)?;
                }
            }
            Step::Parts => pos = parts(schema, data, pos, out)?,
        }
    }
    Some(pos)
}

/// A length or count: -1 stands for null.
#[inline]
fn size(data: &[u8], pos: usize) -> Option<usize> {
    match int(data, pos)? {
        -1 => Some(0),
        size => usize::try_from(size).ok(),
    }
}

fn parts<'a>(schema: &Schema, data: &'a [u8], mut pos: usize, out: &mut Body<'a>) -> Option<usize> {
    let count = size(data, pos)?;
    pos += 4;
    let parts = out.parts.insert(Vec::new());
    if count > (data.len() - pos) / 8 {
        return None;
    }
    parts.reserve(count.min(64));
    for _ in 0..count {
        let kind = int(data, pos)?;
        let size = size(data, pos + 4)?;
        pos += 8;
        let stop = pos + size;
        let whole = stop <= data.len();
        let body = part(schema, kind, data.get(..stop).unwrap_or(data), pos);
        if body.is_none() && (whole || !schema.txns.knows(kind)) {
            return None;
        }
        let (path, error) = body.map_or((None, None), |body| (body.path, body.error));
        parts.push(Part {
            kind,
            path,
            error: error.filter(|_| kind == ERROR_TYPE),
        });
        if !whole {
            return None;
        }
        pos = stop;
    }
    Some(pos)
}

/// A part that fits to the byte; a multi in a multi is not ZooKeeper's.
fn part<'a>(schema: &Schema, kind: i32, data: &'a [u8], pos: usize) -> Option<Body<'a>> {
    for layout in schema.txns.layouts(kind)? {
        if layout.first() == Some(&Step::Parts) {
            return None;
        }
        let mut body = Body::default();
        if walk(schema, layout, data, pos, &mut body) == Some(data.len()) {
            return Some(body);
        }
    }
    None
}
