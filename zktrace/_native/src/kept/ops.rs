//! Ops by their number: their names, and which of them those who keep events want to know.
//!
//! A name stands for one number in all of a schema, so it is looked at once, and not for every event.
//! Knows nothing of what is kept.

/// Numbers that are remembered; others are called `op<n>`.
const FIRST_OP: i32 = -16;
const OPS: usize = 256;

pub const PING: u8 = 1;
pub const CONNECT: u8 = 2;
pub const CLOSE_SESSION: u8 = 4;
pub const ADD_WATCH: u8 = 8;
/// What an event is answered with, which may also set a watch.
pub const READS: u8 = 16;
/// Changes the tree.
pub const WRITES: u8 = 32;

/// What an op is: a set of the above.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Class(u8);

impl Class {
    #[inline]
    pub fn any(self, of: u8) -> bool {
        self.0 & of != 0
    }
}

pub struct Ops {
    known: Vec<Option<(Class, Box<str>)>>,
    /// Numbers of ops that change the tree.
    changing: Vec<i32>,
}

fn place(code: i32) -> usize {
    usize::try_from(code.wrapping_sub(FIRST_OP)).unwrap_or(usize::MAX)
}

impl Ops {
    pub fn new(changing: Vec<i32>) -> Self {
        Ops {
            known: vec![None; OPS],
            changing,
        }
    }

    /// What an op is; it is known from then on.
    #[inline]
    pub fn learn(&mut self, (code, name): (i32, &str)) -> Class {
        match self.known.get(place(code)) {
            Some(Some((class, _))) => *class,
            _ => self.first(code, name),
        }
    }

    #[cold]
    fn first(&mut self, code: i32, name: &str) -> Class {
        let named = match name {
            "ping" => PING,
            "connect" => CONNECT,
            "closeSession" => CLOSE_SESSION,
            "addWatch" => ADD_WATCH,
            "getData" | "exists" | "getChildren" | "getChildren2" => READS,
            _ => 0,
        };
        let writes = if self.changing.contains(&code) {
            WRITES
        } else {
            0
        };
        let class = Class(named | writes);
        if let Some(known) = self.known.get_mut(place(code)) {
            *known = Some((class, name.into()));
        }
        class
    }

    pub fn name(&self, code: i32) -> String {
        match self.known.get(place(code)) {
            Some(Some((_, name))) => name.to_string(),
            _ => format!("op{code}"),
        }
    }
}
