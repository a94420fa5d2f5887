//! The wire schema as the engine uses it, parsed from the text that Python hands over. No opcode is written down here.
//!
//! A layout is a sequence of steps, one per field in wire order; `scan.rs` walks the body of one message by its layout.
//! `zktrace/stream/schema.py` is the reference. Knows nothing of connections, times or events.

use std::collections::HashMap;

use crate::txn::TxnTable;

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
pub(crate) enum Code {
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
    pub(crate) code: Code,
    pub kind: Kind,
    pub role: Role,
    pub inner: Vec<Step>,
    pub(crate) min_inner: usize,
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
    pub(crate) brief: Brief,
}

/// What is read of a request where nobody looks at more than its path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Brief {
    /// Its path, which comes first.
    Path,
    /// Nothing: it has none.
    Nothing,
    All,
}

impl Brief {
    fn of(request: &[Step]) -> Brief {
        match request.first().map(|first| first.code) {
            Some(Code::Path) => Brief::Path,
            // what is kept of a multi is not its path alone
            _ if request
                .iter()
                .any(|step| matches!(step.code, Code::Path | Code::Multi)) =>
            {
                Brief::All
            }
            _ => Brief::Nothing,
        }
    }
}

/// Opcodes from `FIRST` on are found without hashing.
const FIRST: i32 = -16;
const DIRECT: usize = 144;
/// Index of no op.
pub const NO_OP: u16 = u16::MAX;

/// Types of QuorumPackets are below this.
const PACKETS: usize = 32;

/// Opcode table, names of errors, events and states, four-letter words.
pub struct Schema {
    ops: Vec<Op>,
    direct: [u16; DIRECT],
    others: HashMap<i32, u16>,
    errors: HashMap<i32, Box<str>>,
    events: Vec<(i32, Box<str>)>,
    states: Vec<(i32, Box<str>)>,
    words: Vec<([u8; 4], Box<str>)>,
    /// Bodies of txns.
    pub txns: TxnTable,
    /// Types of QuorumPackets by number.
    packets: [Option<Box<str>>; PACKETS],
    votes: Vec<(i32, Box<str>)>,
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
            txns: TxnTable::default(),
            packets: Default::default(),
            votes: Vec::new(),
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
            let request = parse_layout(request)?;
            let op = Op {
                number: number.parse().ok()?,
                name: (*name).into(),
                client: *access != "-",
                brief: Brief::of(&request),
                request,
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
        if what == "txn" {
            return self.txns.line(rest);
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
            "packet" => *self.packets.get_mut(key.parse::<usize>().ok()?)? = Some(name.into()),
            "vote" => self.votes.push((key.parse().ok()?, name.into())),
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

    /// Name of a type of QuorumPackets.
    #[inline]
    pub fn packet(&self, kind: i32) -> Option<&str> {
        let place = usize::try_from(kind).ok()?;
        self.packets.get(place)?.as_deref()
    }

    #[inline(always)]
    pub fn knows_packet(&self, kind: i32) -> bool {
        self.packet(kind).is_some()
    }

    /// Name of a server's state in an election.
    pub fn vote(&self, state: i32) -> Option<&str> {
        find(&self.votes, state)
    }

    pub fn word(&self, bytes: &[u8]) -> Option<&str> {
        let found = self.words.iter().find(|(word, _)| word == bytes)?;
        Some(&found.1)
    }

    /// Whether a word begins with these bytes.
    pub fn begins_word(&self, bytes: &[u8]) -> bool {
        self.words.iter().any(|(word, _)| word.starts_with(bytes))
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

/// Whether these bytes can be a znode's path as real clients send it: a slash first, UTF-8, no NUL.
pub fn plausible_path(text: &[u8]) -> bool {
    text.first() == Some(&b'/') && !text.contains(&0) && std::str::from_utf8(text).is_ok()
}
