//! Where secrets and node data stand in the bodies of requests and replies: what `redact` walks through, step by step.
//!
//! Knows no bytes, only their order: CreateRequest, SetDataRequest, GetDataResponse and the others of zookeeper.jute.

pub const ERROR: i32 = -1;
pub const CREATE: [i32; 3] = [1, 15, 19];
pub const CREATE_TTL: i32 = 21;
pub const GET_DATA: i32 = 4;
pub const SET_DATA: i32 = 5;
pub const GET_ACL: i32 = 6;
pub const SET_ACL: i32 = 7;
pub const MULTI: i32 = 14;
pub const MULTI_READ: i32 = 22;
pub const AUTH: i32 = 100;
pub const SASL: i32 = 102;
pub const STAT: u64 = 68;

/// What is done to the bytes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Keep,
    Zero,
    /// Node data: kept, or so many bytes of it.
    Data,
    /// Kept, and noted as an ACL's scheme.
    Scheme,
    /// Zeros behind the first colon, if the scheme is digest.
    Id,
}

/// What comes next in a frame; steps are a stack.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Bytes(u64, Fate),
    /// An int, then so many bytes.
    Sized(Fate),
    /// An int, then so many ACLs; so many ACLs.
    Acls,
    Acl(u32),
    /// An int, then so many texts; so many texts.
    Texts,
    Text(u32),
    /// A RequestHeader, a ReplyHeader, then what they tell.
    Request,
    Reply,
    /// A MultiHeader, its body and what follows it.
    MultiOps,
    MultiResults,
    Rest(Fate),
}

/// The body of a request whose layout matters; None: not known. In a multi all of it has to be known.
pub fn request_body(opcode: i32) -> Option<Vec<Step>> {
    let keep = Step::Sized(Fate::Keep);
    Some(match opcode {
        _ if CREATE.contains(&opcode) => vec![
            keep,
            Step::Sized(Fate::Data),
            Step::Acls,
            Step::Bytes(4, Fate::Keep),
        ],
        CREATE_TTL => vec![
            keep,
            Step::Sized(Fate::Data),
            Step::Acls,
            Step::Bytes(12, Fate::Keep),
        ],
        SET_DATA => vec![keep, Step::Sized(Fate::Data), Step::Bytes(4, Fate::Keep)],
        SET_ACL => vec![keep, Step::Acls, Step::Bytes(4, Fate::Keep)],
        // delete, check: path, version.
        2 | 13 => vec![keep, Step::Bytes(4, Fate::Keep)],
        // exists, getData, getChildren: path, watch.
        3 | GET_DATA | 8 => vec![keep, Step::Bytes(1, Fate::Keep)],
        _ => return None,
    })
}

/// The body of a result in a multi's reply.
pub fn result_body(kind: i32) -> Option<Vec<Step>> {
    let stat = Step::Bytes(STAT, Fate::Keep);
    Some(match kind {
        ERROR => vec![Step::Bytes(4, Fate::Keep)],
        1 => vec![Step::Sized(Fate::Keep)],
        15 | 19 | CREATE_TTL => vec![Step::Sized(Fate::Keep), stat],
        SET_DATA => vec![stat],
        2 | 13 => vec![],
        GET_DATA => vec![Step::Sized(Fate::Data), stat],
        8 => vec![Step::Texts],
        _ => return None,
    })
}
