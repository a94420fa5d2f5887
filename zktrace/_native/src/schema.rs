//! The wire schema as the engine uses it, parsed from the text that Python hands over. No opcode is written down here.
//!
//! A layout is a sequence of steps, one per field in wire order. [`Schema::scan`] walks the body of one message by its
//! layout and notes the fields that events show. `zktrace/stream/schema.py` is the reference. Knows nothing of
//! connections, times or events.

use std::collections::HashMap;

use crate::events::{RawStat, Watches};
use crate::framer::Frame;

/// Type of a multi's end header and of its error results (ZooDefs.OpCode.error).
pub const ERROR_TYPE: i32 = -1;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Bool,
    Byte,
    Int,
    Long,
    Ustring,
    Buffer,
    Stat,
    Vec,
    Rest,
    Multi,
    MultiResult,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    None,
    Path,
    Watch,
    Flags,
    Mode,
    Version,
    DataLength,
    Stat,
    Children,
    CreatedPath,
    Ttl,
    Data,
    Exist,
    Child,
    Persistent,
    PersistentRecursive,
}

/// Kind and role in one, so that scanning takes one branch per field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Code {
    /// So many bytes that nothing is made of.
    Skip4,
    Skip8,
    Skip68,
    Byte,
    Bool,
    Watch,
    Flags,
    Mode,
    Version,
    Children,
    Ttl,
    Stat,
    Path,
    CreatedPath,
    /// A ustring that is a path, but no column.
    OtherPath,
    /// A ustring or buffer that nothing is made of.
    Sized,
    DataLength,
    Vec,
    Rest,
    Multi,
    MultiResult,
}

impl Code {
    fn of(kind: Kind, role: Role) -> Code {
        match (kind, role) {
            (Kind::Int, Role::Flags) => Code::Flags,
            (Kind::Int, Role::Mode) => Code::Mode,
            (Kind::Int, Role::Version) => Code::Version,
            (Kind::Int, Role::Children) => Code::Children,
            (Kind::Int, _) => Code::Skip4,
            (Kind::Ustring, Role::Path) => Code::Path,
            (Kind::Ustring, Role::CreatedPath) => Code::CreatedPath,
            (Kind::Buffer, Role::DataLength) => Code::DataLength,
            (Kind::Ustring, Role::None) | (Kind::Buffer, _) => Code::Sized,
            (Kind::Ustring, _) => Code::OtherPath,
            (Kind::Bool | Kind::Byte, Role::Watch) => Code::Watch,
            (Kind::Bool, _) => Code::Bool,
            (Kind::Byte, _) => Code::Byte,
            (Kind::Long, Role::Ttl) => Code::Ttl,
            (Kind::Long, _) => Code::Skip8,
            (Kind::Stat, Role::Stat) => Code::Stat,
            (Kind::Stat, _) => Code::Skip68,
            (Kind::Vec, _) => Code::Vec,
            (Kind::Rest, _) => Code::Rest,
            (Kind::Multi, _) => Code::Multi,
            (Kind::MultiResult, _) => Code::MultiResult,
        }
    }
}

/// One field of a layout: its kind, the event column it feeds, the layout of a vector's elements.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    code: Code,
    pub kind: Kind,
    pub role: Role,
    pub inner: Vec<Step>,
    min_inner: usize,
}

pub type Layout = Vec<Step>;

/// One row of the opcode table.
#[derive(Clone, Debug)]
pub struct Op {
    pub number: i32,
    pub name: Box<str>,
    /// Whether clients send it.
    pub client: bool,
    pub request: Layout,
    pub reply: Layout,
}

/// What a body holds that events show. Small, since one is made for every message: what few have is behind `rare`.
#[derive(Default, Debug, Clone)]
pub struct Fields<'a> {
    pub path: Option<&'a [u8]>,
    pub created_path: Option<&'a [u8]>,
    pub stat: Option<RawStat<'a>>,
    pub values: Values,
    pub children: Option<i32>,
    rare: Option<Box<Rare<'a>>>,
}

/// What a request holds beside texts.
#[derive(Default, Debug, Clone, Copy)]
pub struct Values {
    pub watch: Option<bool>,
    pub flags: Option<i32>,
    pub mode: Option<i32>,
    pub version: Option<i32>,
    pub data_length: Option<i32>,
    pub ttl: Option<i64>,
}

/// What setWatches and multi hold.
#[derive(Default, Debug, Clone)]
pub struct Rare<'a> {
    pub watches: Option<Watches>,
    /// multi: (type, path) of each sub-operation
    pub ops: Option<Vec<(i32, Option<&'a [u8]>)>>,
    /// multi: (type, error) of each result
    pub results: Option<Vec<(i32, i32)>>,
}

impl<'a> Fields<'a> {
    /// What only few bodies hold.
    #[inline]
    pub fn rare(&self) -> Option<&Rare<'a>> {
        self.rare.as_deref()
    }

    #[inline]
    pub fn rare_mut(&mut self) -> Option<&mut Rare<'a>> {
        self.rare.as_deref_mut()
    }

    /// Results of a multi.
    #[inline]
    pub fn results(&self) -> Option<&[(i32, i32)]> {
        self.rare.as_ref()?.results.as_deref()
    }

    fn watches(&mut self) -> &mut Watches {
        self.make_rare().watches.get_or_insert_default()
    }

    fn make_rare(&mut self) -> &mut Rare<'a> {
        self.rare.get_or_insert_default()
    }
}

/// Opcodes from `FIRST` on are found without hashing.
const FIRST: i32 = -16;
const DIRECT: usize = 144;
/// Index of no op.
pub const NO_OP: u16 = u16::MAX;

/// Opcode table, names of errors, events and states, four-letter words.
pub struct Schema {
    ops: Vec<Op>,
    direct: [u16; DIRECT],
    others: HashMap<i32, u16>,
    errors: HashMap<i32, Box<str>>,
    events: Vec<(i32, Box<str>)>,
    states: Vec<(i32, Box<str>)>,
    words: Vec<([u8; 4], Box<str>)>,
}

impl Schema {
    /// Parses what `zktrace.wire.layout.schema_text()` gives; the error names the line.
    pub fn parse(text: &str) -> Result<Schema, String> {
        let mut schema = Schema {
            ops: Vec::new(),
            direct: [NO_OP; DIRECT],
            others: HashMap::new(),
            errors: HashMap::new(),
            events: Vec::new(),
            states: Vec::new(),
            words: Vec::new(),
        };
        for line in text.lines() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            schema
                .line(line)
                .ok_or_else(|| format!("unknown schema line {line:?}"))?;
        }
        Ok(schema)
    }

    fn line(&mut self, line: &str) -> Option<()> {
        let (what, rest) = line.split_once(' ')?;
        if what == "op" {
            let parts: Vec<&str> = rest.split(' ').collect();
            let [number, name, access, request, reply] = parts.as_slice() else {
                return None;
            };
            let op = Op {
                number: number.parse().ok()?,
                name: (*name).into(),
                client: *access != "-",
                request: parse_layout(request)?,
                reply: parse_layout(reply)?,
            };
            let index = u16::try_from(self.ops.len()).ok().filter(|i| *i != NO_OP)?;
            match direct_index(op.number) {
                Some(place) => *self.direct.get_mut(place)? = index,
                None => {
                    self.others.insert(op.number, index);
                }
            }
            self.ops.push(op);
            return Some(());
        }
        let (key, name) = rest.split_once(' ')?;
        match what {
            "word" => {
                let word = u32::from_str_radix(key, 16).ok()?.to_be_bytes();
                self.words.push((word, name.into()));
            }
            "error" => {
                self.errors.insert(key.parse().ok()?, name.into());
            }
            "event" => self.events.push((key.parse().ok()?, name.into())),
            "state" => self.states.push((key.parse().ok()?, name.into())),
            _ => return None,
        }
        Some(())
    }

    /// Index of an opcode's row, [`NO_OP`] where it is not in the table.
    #[inline]
    pub fn index(&self, opcode: i32) -> u16 {
        match direct_index(opcode) {
            Some(place) => self.direct.get(place).copied().unwrap_or(NO_OP),
            None => self.others.get(&opcode).copied().unwrap_or(NO_OP),
        }
    }

    #[inline]
    pub fn op(&self, index: u16) -> Option<&Op> {
        self.ops.get(usize::from(index))
    }

    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    #[inline]
    pub fn knows_error(&self, code: i32) -> bool {
        self.errors.contains_key(&code)
    }

    pub fn error_name(&self, code: i32) -> Option<&str> {
        self.errors.get(&code).map(AsRef::as_ref)
    }

    pub fn event(&self, kind: i32) -> Option<&str> {
        find(&self.events, kind)
    }

    pub fn state(&self, state: i32) -> Option<&str> {
        find(&self.states, state)
    }

    pub fn word(&self, bytes: &[u8]) -> Option<&str> {
        let found = self.words.iter().find(|(word, _)| word == bytes)?;
        Some(&found.1)
    }

    /// Whether a word begins with these bytes.
    pub fn begins_word(&self, bytes: &[u8]) -> bool {
        self.words.iter().any(|(word, _)| word.starts_with(bytes))
    }

    /// Reads the fields of `layout` from `buf[pos..]`; the position after the last one, or None where a field does not
    /// fit (what was read before it stays in `out`). `strict` adds what every real client and server keeps to and
    /// random bytes do not: booleans of 0 or 1, paths that are UTF-8 and begin with a slash.
    pub fn scan<'a>(
        &self,
        layout: &[Step],
        buf: &'a [u8],
        pos: usize,
        out: &mut Fields<'a>,
        strict: bool,
    ) -> Option<usize> {
        if strict {
            self.scan_body::<true>(layout, buf, pos, out, Way::top(0))
        } else {
            self.scan_body::<false>(layout, buf, pos, out, Way::top(0))
        }
    }

    /// The same for a frame of which not everything may have been kept: sizes and counts up to its true length are noted
    /// even where what they count was not.
    #[inline]
    pub fn scan_frame<'a>(
        &self,
        layout: &[Step],
        frame: &Frame<'a>,
        pos: usize,
        out: &mut Fields<'a>,
    ) -> Option<usize> {
        self.scan_body::<false>(layout, frame.head, pos, out, Way::top(frame.length))
    }

    fn scan_body<'a, const STRICT: bool>(
        &self,
        layout: &[Step],
        buf: &'a [u8],
        pos: usize,
        out: &mut Fields<'a>,
        way: Way,
    ) -> Option<usize> {
        let mut rest = buf.get(pos..)?;
        for step in layout {
            match step.code {
                Code::Skip4 => rest = rest.get(4..)?,
                Code::Skip8 => rest = rest.get(8..)?,
                Code::Skip68 => rest = rest.get(68..)?,
                Code::Byte => rest = rest.get(1..)?,
                Code::Bool => {
                    let value = take_byte(&mut rest)?;
                    if STRICT && value > 1 {
                        return None;
                    }
                }
                Code::Watch => {
                    let value = take_byte(&mut rest)?;
                    if STRICT && step.kind == Kind::Bool && value > 1 {
                        return None;
                    }
                    out.values.watch = Some(value != 0);
                }
                Code::Flags => out.values.flags = Some(take_int(&mut rest)?),
                Code::Mode => out.values.mode = Some(take_int(&mut rest)?),
                Code::Version => out.values.version = Some(take_int(&mut rest)?),
                Code::Children => out.children = Some(take_int(&mut rest)?),
                Code::Ttl => {
                    let (value, behind) = rest.split_first_chunk::<8>()?;
                    out.values.ttl = Some(i64::from_be_bytes(*value));
                    rest = behind;
                }
                Code::Stat => {
                    let (bytes, behind) = rest.split_first_chunk()?;
                    out.stat = Some(RawStat(bytes));
                    rest = behind;
                }
                Code::Path => out.path = Some(take_path::<STRICT>(&mut rest)?),
                Code::CreatedPath => out.created_path = Some(take_path::<STRICT>(&mut rest)?),
                Code::OtherPath => {
                    take_path::<STRICT>(&mut rest)?;
                }
                Code::Sized => {
                    take_sized(&mut rest)?;
                }
                Code::DataLength => {
                    if let Some(size) = int(rest, 0).filter(|size| *size >= 0) {
                        let end = buf.len() - rest.len() + 4 + size as usize;
                        if end <= buf.len().max(way.total) {
                            out.values.data_length = Some(size);
                        }
                    }
                    take_sized(&mut rest)?;
                }
                Code::Vec => {
                    let end = self.vector::<STRICT>(step, buf, buf.len() - rest.len(), out, way)?;
                    rest = buf.get(end..)?;
                }
                // in a multi nothing says where it would end: its form without a rest is taken
                Code::Rest if way.nested => {}
                Code::Rest => rest = &[],
                Code::Multi => {
                    let end = self.multi::<STRICT>(buf, buf.len() - rest.len(), out)?;
                    rest = buf.get(end..)?;
                }
                Code::MultiResult => {
                    let end = self.results::<STRICT>(buf, buf.len() - rest.len(), out)?;
                    rest = buf.get(end..)?;
                }
            }
        }
        Some(buf.len() - rest.len())
    }

    fn vector<'a, const STRICT: bool>(
        &self,
        step: &Step,
        buf: &'a [u8],
        mut pos: usize,
        out: &mut Fields<'a>,
        way: Way,
    ) -> Option<usize> {
        let count = int(buf, pos)?;
        pos += 4;
        if count < -1 {
            return None;
        }
        let elements = usize::try_from(count).unwrap_or(0);
        if elements > (buf.len().max(way.total) - pos) / step.min_inner {
            return None;
        }
        let shown = Some(count.max(0));
        match step.role {
            Role::Children if count >= 0 => out.children = Some(count),
            Role::Data => out.watches().data = shown,
            Role::Exist => out.watches().exist = shown,
            Role::Child => out.watches().child = shown,
            Role::Persistent => out.watches().persistent = shown,
            Role::PersistentRecursive => out.watches().persistent_recursive = shown,
            _ => {}
        }
        if let [Step {
            kind: Kind::Ustring,
            role: Role::None,
            ..
        }] = step.inner.as_slice()
        {
            for _ in 0..elements {
                pos = sized(buf, pos)?.1;
            }
        } else {
            let mut unused = Fields::default();
            for _ in 0..elements {
                pos = self.scan_body::<STRICT>(&step.inner, buf, pos, &mut unused, way)?;
            }
        }
        Some(pos)
    }

    fn multi<'a, const STRICT: bool>(
        &self,
        buf: &'a [u8],
        mut pos: usize,
        out: &mut Fields<'a>,
    ) -> Option<usize> {
        // MultiOperationRecord: headers and bodies, then a header with done set
        let ops = out.make_rare().ops.insert(Vec::new());
        loop {
            let (kind, done, _) = multi_header(buf, pos)?;
            pos += 9;
            if done {
                return Some(pos);
            }
            let op = self.op(self.index(kind))?;
            if kind == ERROR_TYPE || nests(&op.request) {
                return None;
            }
            let mut sub = Fields::default();
            let end = self.scan_body::<STRICT>(&op.request, buf, pos, &mut sub, Way::nested());
            ops.push((kind, sub.path));
            pos = end?;
        }
    }

    fn results<const STRICT: bool>(
        &self,
        buf: &[u8],
        mut pos: usize,
        out: &mut Fields<'_>,
    ) -> Option<usize> {
        // MultiResponse: each result is decoded by its own type, which need not be the request's (create2 -> create).
        // ClickHouse Keeper keeps the type of a failed one and leaves out its body.
        let results = out.make_rare().results.insert(Vec::new());
        loop {
            let (kind, done, error) = multi_header(buf, pos)?;
            pos += 9;
            if done {
                return Some(pos);
            }
            if kind == ERROR_TYPE {
                results.push((kind, int(buf, pos)?));
                pos += 4;
                continue;
            }
            let op = self.op(self.index(kind))?;
            if nests(&op.reply) {
                return None;
            }
            if error == 0 {
                pos = self.scan_body::<STRICT>(
                    &op.reply,
                    buf,
                    pos,
                    &mut Fields::default(),
                    Way::nested(),
                )?;
            }
            results.push((kind, error));
        }
    }
}

/// How a body is scanned.
#[derive(Clone, Copy)]
struct Way {
    /// Inside a multi, where nothing says where the body ends.
    nested: bool,
    /// How long the bytes would be if all had been kept.
    total: usize,
}

impl Way {
    fn top(total: usize) -> Self {
        Way {
            nested: false,
            total,
        }
    }

    fn nested() -> Self {
        Way {
            nested: true,
            total: 0,
        }
    }
}

/// "op<n>" for an opcode that is not in the table.
pub fn unknown_op(opcode: i32) -> String {
    format!("op{opcode}")
}

fn direct_index(opcode: i32) -> Option<usize> {
    usize::try_from(opcode.wrapping_sub(FIRST))
        .ok()
        .filter(|place| *place < DIRECT)
}

fn find(names: &[(i32, Box<str>)], number: i32) -> Option<&str> {
    names
        .iter()
        .find(|(n, _)| *n == number)
        .map(|(_, name)| name.as_ref())
}

fn parse_layout(text: &str) -> Option<Layout> {
    if text == "-" {
        return Some(Vec::new());
    }
    let mut steps = Vec::new();
    let mut depth = 0usize;
    let mut start = 0;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.checked_sub(1)?,
            ',' if depth == 0 => {
                steps.push(parse_step(text.get(start..at)?)?);
                start = at + 1;
            }
            _ => {}
        }
    }
    steps.push(parse_step(text.get(start..)?)?);
    Some(steps)
}

fn parse_step(text: &str) -> Option<Step> {
    let mut inner = Vec::new();
    let mut rest = text;
    if let Some(body) = text.strip_prefix("vec(") {
        let close = body.rfind(')')?;
        inner = parse_layout(body.get(..close)?)?;
        rest = body.get(close + 1..)?;
    }
    let (kind, role) = rest.split_once(':').unwrap_or((rest, ""));
    let kind = match kind {
        "" if !inner.is_empty() => Kind::Vec,
        "bool" => Kind::Bool,
        "byte" => Kind::Byte,
        "int" => Kind::Int,
        "long" => Kind::Long,
        "ustring" => Kind::Ustring,
        "buffer" => Kind::Buffer,
        "stat" => Kind::Stat,
        "rest" => Kind::Rest,
        "multi" => Kind::Multi,
        "multiresult" => Kind::MultiResult,
        _ => return None,
    };
    let role = match role {
        "" => Role::None,
        "path" => Role::Path,
        "watch" => Role::Watch,
        "flags" => Role::Flags,
        "mode" => Role::Mode,
        "version" => Role::Version,
        "data_length" => Role::DataLength,
        "stat" => Role::Stat,
        "children" => Role::Children,
        "created_path" => Role::CreatedPath,
        "ttl" => Role::Ttl,
        "data" => Role::Data,
        "exist" => Role::Exist,
        "child" => Role::Child,
        "persistent" => Role::Persistent,
        "persistent_recursive" => Role::PersistentRecursive,
        _ => return None,
    };
    // an element of no size would make its count a free multiplier of work; no record of the schema is empty
    let min_inner = inner.iter().map(min_size).sum::<usize>().max(1);
    Some(Step {
        code: Code::of(kind, role),
        kind,
        role,
        inner,
        min_inner,
    })
}

fn min_size(step: &Step) -> usize {
    match step.kind {
        Kind::Bool | Kind::Byte => 1,
        Kind::Int | Kind::Ustring | Kind::Buffer | Kind::Vec => 4,
        Kind::Long => 8,
        Kind::Stat => 68,
        Kind::Rest | Kind::Multi | Kind::MultiResult => 0,
    }
}

fn nests(layout: &[Step]) -> bool {
    // a multi in a multi is not ZooKeeper's, and its depth would be the sender's to choose
    matches!(
        layout.first(),
        Some(Step {
            kind: Kind::Multi | Kind::MultiResult,
            ..
        })
    )
}

fn multi_header(buf: &[u8], pos: usize) -> Option<(i32, bool, i32)> {
    let header = buf.get(pos..)?.get(..9)?;
    Some((int(header, 0)?, *header.get(4)? != 0, int(header, 5)?))
}

/// A big-endian int.
#[inline]
pub fn int(buf: &[u8], pos: usize) -> Option<i32> {
    let bytes = buf.get(pos..)?.first_chunk::<4>()?;
    Some(i32::from_be_bytes(*bytes))
}

/// A big-endian long.
#[inline]
pub fn long(buf: &[u8], pos: usize) -> Option<i64> {
    let bytes = buf.get(pos..)?.first_chunk::<8>()?;
    Some(i64::from_be_bytes(*bytes))
}

/// A ustring's or buffer's bytes (None for null) and the position after it.
#[inline]
fn sized(buf: &[u8], pos: usize) -> Option<(Option<&[u8]>, usize)> {
    let size = int(buf, pos)?;
    let start = pos + 4;
    if size < 0 {
        return (size == -1).then_some((None, start));
    }
    let end = start.checked_add(usize::try_from(size).ok()?)?;
    Some((Some(buf.get(start..end)?), end))
}

#[inline]
fn take_byte(rest: &mut &[u8]) -> Option<u8> {
    let (value, behind) = rest.split_first()?;
    *rest = behind;
    Some(*value)
}

#[inline]
fn take_int(rest: &mut &[u8]) -> Option<i32> {
    let (value, behind) = rest.split_first_chunk::<4>()?;
    *rest = behind;
    Some(i32::from_be_bytes(*value))
}

/// A ustring's or buffer's bytes, None for null.
#[inline]
fn take_sized<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let (size, behind) = rest.split_first_chunk::<4>()?;
    let size = u32::from_be_bytes(*size);
    // a negative size is larger than what is there, too
    let Some((text, behind)) = behind.split_at_checked(size as usize) else {
        *rest = behind;
        return (size == u32::MAX).then_some(None);
    };
    *rest = behind;
    Some(Some(text))
}

/// A path's bytes, none for null.
#[inline]
fn take_path<'a, const STRICT: bool>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let text = take_sized(rest)?.unwrap_or_default();
    if STRICT && !plausible_path(text) {
        return None;
    }
    Some(text)
}

/// Whether these bytes can be a znode's path as real clients send it: a slash first, UTF-8, no NUL.
pub fn plausible_path(text: &[u8]) -> bool {
    text.first() == Some(&b'/') && !text.contains(&0) && std::str::from_utf8(text).is_ok()
}
