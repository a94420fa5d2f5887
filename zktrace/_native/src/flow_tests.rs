//! Reassembly, the cases that carry the most; the others are told in Python, and random traffic
//! proves the two engines equal (tests/flow).

use super::*;
use crate::ip::{FIN, PSH};

const MS: i64 = 1_000_000;

#[derive(Default)]
struct Recorder {
    calls: Vec<String>,
    streams: [Vec<u8>; 2],
}

impl FlowSink for Recorder {
    fn open(&mut self, slot: u32, conn_id: u64, _: i64, a: Endpoint, _: Endpoint, syn: bool) {
        self.calls
            .push(format!("open {slot} {conn_id} {} {syn}", a.port));
    }

    fn data(&mut self, _: u32, conn_id: u64, side: u8, ts_ns: i64, need: u64, data: &[u8]) {
        let text = String::from_utf8_lossy(data);
        let at = ts_ns / MS;
        self.calls
            .push(format!("data {conn_id} {side} {at} {need} {text}"));
        self.streams[usize::from(side)].extend_from_slice(data);
    }

    fn late_data(&mut self, slot: u32, conn_id: u64, side: u8, ts_ns: i64, need: u64, data: &[u8]) {
        self.data(slot, conn_id, side, ts_ns, need, data);
        self.calls.push("late".to_owned());
    }

    fn gap(&mut self, _: u32, conn_id: u64, side: u8, _: i64, n: u64) {
        self.calls.push(format!("gap {conn_id} {side} {n}"));
    }

    fn end(&mut self, slot: u32, conn_id: u64, _: i64, how: End) {
        self.calls
            .push(format!("end {slot} {conn_id} {}", how.name()));
    }
}

/// A segment between 10.0.0.1:`port` (side 0) and 10.0.0.9:2181, stream offsets from ISN 2^32 - 4.
fn seg(port: u16, side: u8, ms: i64, off: u32, ack: u32, flags: u8, payload: &[u8]) -> Segment<'_> {
    let client = (Ip::from_v4(0x0a00_0001), port);
    let server = (Ip::from_v4(0x0a00_0009), 2181);
    let (src, dst) = if side == 0 {
        (client, server)
    } else {
        (server, client)
    };
    let base = 0u32.wrapping_sub(3);
    Segment {
        ts_ns: ms * MS,
        src: src.0,
        dst: dst.0,
        sport: src.1,
        dport: dst.1,
        seq: base.wrapping_add(off),
        ack: base.wrapping_add(ack),
        flags,
        payload,
        wire_len: payload.len() as u32,
        ident: 0,
    }
}

fn handshake(port: u16) -> Vec<Segment<'static>> {
    vec![
        seg(port, 0, 1, u32::MAX, 0, SYN, b""),
        seg(port, 1, 2, u32::MAX, 0, SYN | ACK, b""),
        seg(port, 0, 3, 0, 0, ACK, b""),
    ]
}

fn run(segments: &[Segment<'_>]) -> (Recorder, Counters) {
    let mut recorder = Recorder::default();
    let mut reassembler = Reassembler::default();
    for segment in segments {
        reassembler.segment(segment, &mut recorder);
    }
    reassembler.finish(&mut recorder);
    assert_eq!((reassembler.cost(), reassembler.live()), (0, 0));
    (recorder, *reassembler.counters())
}

#[test]
fn conversation_over_the_wrap() {
    let mut segments = handshake(5);
    segments.push(seg(5, 0, 4, 0, 0, ACK | PSH, b"request"));
    segments.push(seg(5, 1, 5, 0, 7, ACK | PSH, b"reply!"));
    segments.push(seg(5, 0, 6, 7, 6, ACK | FIN, b""));
    segments.push(seg(5, 1, 7, 6, 8, ACK | FIN, b""));
    segments.push(seg(5, 0, 8, 8, 7, ACK, b""));
    let (recorder, counters) = run(&segments);
    assert_eq!(
        recorder.calls,
        [
            "open 0 0 5 true",
            "data 0 0 4 0 request",
            "data 0 1 5 7 reply!",
            "end 0 0 closed",
        ]
    );
    assert_eq!(counters.retransmitted_segments, 0);
}

#[test]
fn first_copy_wins_behind_a_hole() {
    let mut segments = handshake(5);
    segments.push(seg(5, 0, 4, 9, 0, ACK, b"CD"));
    segments.push(seg(5, 0, 5, 13, 0, ACK, b"gh"));
    segments.push(seg(5, 0, 6, 7, 0, ACK, b"abcdefgh"));
    segments.push(seg(5, 0, 7, 0, 0, ACK, b"requestXYZ"));
    let (recorder, counters) = run(&segments);
    assert_eq!(recorder.streams[0], b"requestabCDefgh");
    assert_eq!((counters.gaps, counters.out_of_order_segments), (0, 3));
    assert_eq!(counters.retransmitted_segments, 0);
}

#[test]
fn acknowledged_hole_is_a_gap_after_64_packets() {
    let mut segments = handshake(5);
    segments.push(seg(5, 0, 4, 4, 0, ACK, b"there"));
    for _ in 0..63 {
        segments.push(seg(5, 1, 5, 0, 9, ACK, b""));
    }
    let mut recorder = Recorder::default();
    let mut reassembler = Reassembler::default();
    for segment in &segments {
        reassembler.segment(segment, &mut recorder);
    }
    assert_eq!(recorder.calls.len(), 1);
    reassembler.segment(&seg(5, 1, 5, 0, 9, ACK, b""), &mut recorder);
    assert_eq!(recorder.calls[1..], ["gap 0 0 4", "data 0 0 4 0 there"]);
}

#[test]
fn cut_payload_is_a_gap() {
    let mut segments = handshake(5);
    let mut cut = seg(5, 0, 4, 0, 0, ACK, b"ab");
    cut.wire_len = 9;
    segments.push(cut);
    segments.push(seg(5, 0, 5, 9, 0, ACK, b"c"));
    let (recorder, counters) = run(&segments);
    assert_eq!(
        recorder.calls[1..4],
        ["data 0 0 4 0 ab", "gap 0 0 7", "data 0 0 5 0 c"]
    );
    assert_eq!((counters.gaps, counters.gap_bytes), (1, 7));
}

#[test]
fn slots_are_used_again() {
    let mut segments = handshake(5);
    segments.push(seg(5, 0, 4, 0, 0, RST, b""));
    let mut later = handshake(6);
    for segment in &mut later {
        segment.ts_ns += 2000 * MS;
    }
    segments.extend(later);
    let (recorder, _) = run(&segments);
    assert_eq!(
        recorder.calls,
        [
            "open 0 0 5 true",
            "end 0 0 reset",
            "open 0 1 6 true",
            "end 0 1 eof",
        ]
    );
}

#[test]
fn the_longest_silent_is_evicted() {
    let limits = Limits {
        connections: 3,
        ..Limits::default()
    };
    let mut reassembler = Reassembler::new(limits);
    let mut recorder = Recorder::default();
    for port in [1, 2, 3] {
        for segment in handshake(port) {
            reassembler.segment(&segment, &mut recorder);
        }
    }
    reassembler.segment(&seg(1, 0, 9, 0, 0, ACK, b""), &mut recorder);
    for port in [4, 5, 6, 7] {
        for segment in handshake(port) {
            reassembler.segment(&segment, &mut recorder);
        }
    }
    let ended: Vec<&String> = recorder
        .calls
        .iter()
        .filter(|call| call.starts_with("end"))
        .collect();
    assert_eq!(
        ended,
        [
            "end 1 1 evicted",
            "end 2 2 evicted",
            "end 0 0 evicted",
            "end 1 3 evicted"
        ]
    );
    assert_eq!(reassembler.live(), 3);
}

/// `cargo test --release --no-default-features -- --ignored --nocapture flow_speed`
#[test]
#[ignore = "a measurement"]
fn flow_speed() {
    struct Sum(u64);
    impl FlowSink for Sum {
        fn open(&mut self, _: u32, _: u64, _: i64, _: Endpoint, _: Endpoint, _: bool) {}
        fn data(&mut self, slot: u32, _: u64, side: u8, _: i64, need: u64, data: &[u8]) {
            self.0 += data.len() as u64 + need + u64::from(slot) + u64::from(side);
        }
        fn late_data(&mut self, _: u32, _: u64, _: u8, _: i64, _: u64, _: &[u8]) {}
        fn gap(&mut self, _: u32, _: u64, _: u8, _: i64, _: u64) {}
        fn end(&mut self, _: u32, _: u64, _: i64, _: End) {}
    }
    for ports in [1u16, 400, 20_000] {
        let mut reassembler = Reassembler::default();
        let mut sum = Sum(0);
        for port in 0..ports {
            for segment in handshake(port) {
                reassembler.segment(&segment, &mut sum);
            }
        }
        let payload = [7u8; 100];
        let rounds = 4_000_000 / u32::from(ports) / 2;
        let started = std::time::Instant::now();
        for round in 0..rounds {
            let off = round * 100;
            for port in 0..ports {
                let request = seg(port, 0, 4, off, off, ACK | PSH, &payload);
                reassembler.segment(&request, &mut sum);
                let reply = seg(port, 1, 4, off, off + 100, ACK | PSH, &payload);
                reassembler.segment(&reply, &mut sum);
            }
        }
        let packets = f64::from(rounds) * f64::from(ports) * 2.0;
        let each = started.elapsed().as_nanos() as f64 / packets;
        println!("{ports} connections: {each:.1} ns per packet ({})", sum.0);
        assert_eq!(reassembler.counters().gaps, 0);
    }
}
