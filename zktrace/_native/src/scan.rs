//! Bodies of messages by their layouts: the fields that events show. `zktrace/stream/schema.py` is the reference. Knows
//! nothing of connections, times or events.

use crate::events::{RawStat, Watches};
use crate::framer::Frame;
use crate::schema::{int, plausible_path, Code, Kind, Role, Schema, Step, ERROR_TYPE};

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

/// A path, None where there is none.
pub type Path<'a> = Option<&'a [u8]>;

/// What setWatches and multi hold.
#[derive(Default, Debug, Clone)]
pub struct Rare<'a> {
    pub watches: Option<Watches>,
    /// multi: (type, path) of each sub-operation
    pub ops: Option<Vec<(i32, Path<'a>)>>,
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

impl Schema {
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

/// The path at the start of a body.
#[inline]
pub fn first_path(buf: &[u8], pos: usize) -> Option<&[u8]> {
    take_path::<false>(&mut buf.get(pos..)?)
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
