//! Conversations with secrets, cut anywhere.

use super::super::redact_bodies::{SET_ACL, SET_DATA};
use super::*;

fn frame(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes()[..], body].concat()
}

fn text(value: &[u8]) -> Vec<u8> {
    frame(value)
}

fn connect_request() -> Vec<u8> {
    frame(&[&[0; 24][..], &text(&[7; 16]), &[1]].concat())
}

fn connect_response() -> Vec<u8> {
    frame(&[&[9; 16][..], &text(&[7; 16]), &[1]].concat())
}

fn header(xid: i32, opcode: i32) -> Vec<u8> {
    [xid.to_be_bytes(), opcode.to_be_bytes()].concat()
}

/// Each direction's frames, and the same with the secrets as zeros.
fn conversation() -> [(Vec<u8>, Vec<u8>); 2] {
    let auth = |secret: &[u8]| {
        frame(
            &[
                &header(-4, AUTH)[..],
                &[0; 4],
                &text(b"digest"),
                &text(secret),
            ]
            .concat(),
        )
    };
    let sasl = |secret: &[u8]| frame(&[&header(5, SASL)[..], &text(secret)].concat());
    let get = frame(
        &[
            &header(6, 4)[..],
            &text(b"/a/long/path/that/is/no/secret/at/all"),
            &[0],
        ]
        .concat(),
    );
    let zero = |mut request: Vec<u8>, from: usize| {
        request[from..from + 16].fill(0);
        request
    };
    let ask = [
        connect_request(),
        auth(b"user:secret"),
        frame(&header(-2, 11)),
        sasl(b"token"),
        get.clone(),
    ];
    let ask_clean = [
        zero(connect_request(), 32),
        auth(&[0; 11]),
        frame(&header(-2, 11)),
        sasl(&[0; 5]),
        get,
    ];
    let reply = |xid: i32, body: &[u8]| frame(&[&xid.to_be_bytes()[..], &[3; 12], body].concat());
    let told = [
        connect_response(),
        reply(-4, &[]),
        reply(5, &text(b"challenge")),
        reply(6, &[8; 99]),
    ];
    let told_clean = [
        zero(connect_response(), 24),
        reply(-4, &[]),
        reply(5, &text(&[0; 9])),
        reply(6, &[8; 99]),
    ];
    [
        (ask.concat(), ask_clean.concat()),
        (told.concat(), told_clean.concat()),
    ]
}

#[test]
fn secrets_become_zeros_however_the_bytes_are_cut() {
    for size in [1, 2, 3, 5, 7, 11, 36, 40, 1000] {
        let mut redactor = Redactor::default();
        for (direction, (bytes, clean)) in conversation().into_iter().enumerate() {
            let mut got = bytes.clone();
            for chunk in got.chunks_mut(size) {
                redactor.pass(direction, chunk);
            }
            assert_eq!(got, clean, "direction {direction}, chunks of {size}");
            assert_ne!(got, bytes);
        }
    }
}

#[test]
fn lengths_that_lie_stay_within_their_frame() {
    let mut redactor = Redactor::default();
    let lying = frame(&[&[1; 24][..], &[0xFF; 4], &[7; 4]].concat());
    let mut bytes = [lying, frame(&header(6, 4))].concat();
    redactor.pass(0, &mut bytes);
    assert_eq!(bytes[32..36], [0; 4]);
    assert_eq!(bytes[36..], frame(&header(6, 4)));
    let bad = frame(&[&header(-4, AUTH)[..], &[0; 4], &[0xFF; 4], b"secret"].concat());
    let mut bytes = bad.clone();
    redactor.pass(0, &mut bytes);
    assert_eq!(bytes[20..], [0; 6]);
    let mut short = frame(&[]);
    Redactor::default().pass(0, &mut short);
    assert_eq!(short, frame(&[]));
}

#[test]
fn other_protocols_pass() {
    for bytes in [
        &b"ruok"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut got = bytes.to_vec();
        Redactor::default().pass(0, &mut got);
        assert_eq!(got, bytes);
    }
}

/// A create with an ACL of the digest scheme and one of another, and data.
fn create(xid: i32, data: &[u8], digest: &[u8]) -> Vec<u8> {
    frame(&[&header(xid, 1)[..], &create_body(data, digest)].concat())
}

fn create_body(data: &[u8], digest: &[u8]) -> Vec<u8> {
    [&text(b"/a")[..], &text(data), &acls(digest), &[0; 4]].concat()
}

fn acls(digest: &[u8]) -> Vec<u8> {
    [
        &2_i32.to_be_bytes()[..],
        &[0, 0, 0, 31],
        &text(b"digest"),
        &text(&[b"bob:", digest].concat()),
        &[0, 0, 0, 1],
        &text(b"ip"),
        &text(b"fd00::1"),
    ]
    .concat()
}

fn multi(xid: i32, data: &[u8], digest: &[u8]) -> Vec<u8> {
    let begin = |kind: i32| [&kind.to_be_bytes()[..], &[0], &[0xFF; 4]].concat();
    let check = [&text(b"/a")[..], &[0; 4]].concat();
    frame(
        &[
            &header(xid, MULTI)[..],
            &begin(13),
            &check,
            &begin(1),
            &create_body(data, digest),
            &[0xFF, 0xFF, 0xFF, 0xFF, 1, 0xFF, 0xFF, 0xFF, 0xFF],
        ]
        .concat(),
    )
}

#[test]
fn hashes_of_acls_and_node_data_go_where_they_are() {
    let (hash, data) = (&b"zUY/Y+L9g1Yb="[..], &b"secret data"[..]);
    let no_hash = vec![0; hash.len()];
    let few = [&data[..3], &vec![0; data.len() - 3]].concat();
    let told = |hash: &[u8], data: &[u8]| {
        let reply =
            |xid: i32, body: &[u8]| frame(&[&xid.to_be_bytes()[..], &[0; 12], body].concat());
        [
            connect_response(),
            reply(9, &[&acls(hash)[..], &[1; 68]].concat()),
            reply(10, &[&text(data)[..], &[1; 68]].concat()),
            reply(11, b"no secret at all"),
        ]
        .concat()
    };
    let asked = |hash: &[u8], data: &[u8]| {
        let get =
            |xid: i32, opcode: i32| frame(&[&header(xid, opcode)[..], &text(b"/a"), &[0]].concat());
        [
            connect_request(),
            create(1, data, hash),
            multi(2, data, hash),
            frame(&[&header(3, SET_DATA)[..], &text(b"/a"), &text(data), &[0; 4]].concat()),
            frame(&[&header(4, SET_ACL)[..], &text(b"/a"), &acls(hash), &[0; 4]].concat()),
            get(9, GET_ACL),
            get(10, GET_DATA),
            get(11, 3),
        ]
        .concat()
    };
    for (kept, hidden) in [(None, data), (Some(3), &few[..])] {
        for size in [1, 2, 3, 5, 7, 11, 40, 10_000] {
            let mut redactor = Redactor::new(kept);
            for (direction, bytes, clean) in [
                (0, asked(hash, data), asked(&no_hash, hidden)),
                (1, told(hash, data), told(&no_hash, hidden)),
            ] {
                let mut got = bytes.clone();
                for chunk in got.chunks_mut(size) {
                    redactor.pass(direction, chunk);
                }
                // Passwords are another test's.
                let from = if direction == 0 { 48 } else { 40 };
                assert_eq!(
                    got[from..],
                    clean[from..],
                    "direction {direction}, chunks of {size}"
                );
                assert_ne!(got, bytes);
            }
        }
    }
}

#[test]
fn frames_of_noise_keep_their_length_and_what_follows_them() {
    let mut state = 7_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 16
    };
    for _ in 0..2000 {
        let opcode = [1, 4, 5, 6, 7, 14, 15, 21, 22, 100, 102][next() as usize % 11];
        let noise: Vec<u8> = (0..next() % 80)
            .map(|_| [0, 0, 0, 1, 2, 9, 255][next() as usize % 7])
            .collect();
        let body = [&header(5, opcode)[..], &noise].concat();
        let size = next() as usize % 20 + 1;
        let mut redactor = Redactor::new(Some(0));
        let ask = frame(&[&header(6, 3)[..], &text(b"/kept"), &[0]].concat());
        let mut bytes = [connect_request(), frame(&body), ask.clone()].concat();
        let length = bytes.len();
        for chunk in bytes.chunks_mut(size) {
            redactor.pass(0, chunk);
        }
        assert_eq!(bytes.len(), length);
        assert_eq!(bytes[length - ask.len()..], ask);
    }
}

#[test]
fn a_reply_that_could_be_anothers_loses_its_body() {
    let get = |opcode| frame(&[&header(5, opcode)[..], &text(b"/a"), &[0]].concat());
    let reply = |body: &[u8]| frame(&[&5_i32.to_be_bytes()[..], &[0; 12], body].concat());
    let acl = [
        &1_i32.to_be_bytes()[..],
        &[0, 0, 0, 31],
        &text(b"digest"),
        &text(b"bob:hash"),
    ]
    .concat();
    let mut redactor = Redactor::new(None);
    let mut ask = [connect_request(), get(GET_DATA), get(GET_ACL)].concat();
    redactor.pass(0, &mut ask);
    let mut told = [connect_response(), reply(&text(b"data")), reply(&acl)].concat();
    redactor.pass(1, &mut told);
    assert!(!told.windows(4).any(|part| part == b"hash"));
}
