//! The capture layer without Python: containers in blocks of any size, merging, decapsulation.
//! The cases themselves are in tests/capture, which runs them through both engines.

use crate::container::{Container, NotACapture, Packet, EMPTY, NOT_A_CAPTURE};
use crate::decap::Decapsulator;
use crate::ip::Ip;
use crate::merge::Merger;

const TS: u32 = 1_700_000_000;

fn frame(payload: &[u8]) -> Vec<u8> {
    let total = 40 + payload.len() as u16;
    let mut frame = vec![0; 12];
    frame.extend_from_slice(&[0x08, 0x00, 0x45, 0]);
    frame.extend_from_slice(&total.to_be_bytes());
    frame.extend_from_slice(&[0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend_from_slice(&[0x9c, 0x40, 0x08, 0x85, 0, 0, 0, 7, 0, 0, 0, 9]);
    frame.extend_from_slice(&[0x50, 0x18, 0, 0, 0, 0, 0, 0]);
    frame.extend_from_slice(payload);
    frame
}

fn pcap(packets: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xA1B2_C3D4, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend_from_slice(&u32::to_le_bytes(word));
    }
    for (micros, data) in packets {
        let length = data.len() as u32;
        for word in [TS, *micros, length, length] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(data);
    }
    file
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len().next_multiple_of(4) + 12) as u32;
    let mut block = [kind.to_le_bytes(), length.to_le_bytes()].concat();
    block.extend_from_slice(body);
    block.resize(length as usize - 4, 0);
    block.extend_from_slice(&length.to_le_bytes());
    block
}

fn pcapng(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut section = 0x1A2B_3C4D_u32.to_le_bytes().to_vec();
    section.extend_from_slice(&[1, 0, 0, 0]);
    section.extend_from_slice(&[0xFF; 8]);
    let mut file = block(0x0A0D_0D0A, &section);
    file.extend(block(1, &[1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 9, 0, 0, 0]));
    for (number, data) in packets.iter().enumerate() {
        let length = data.len() as u32;
        let mut body = Vec::new();
        for word in [0, 0, number as u32, length, length] {
            body.extend_from_slice(&word.to_le_bytes());
        }
        body.extend_from_slice(data);
        file.extend(block(6, &body));
    }
    file
}

type Copied = (i64, u16, Vec<u8>, u32);

fn read(data: &[u8], block: usize) -> (Vec<Copied>, Container) {
    let mut packets = Vec::new();
    let mut container = Container::new();
    let mut keep = |p: Packet<'_>| packets.push((p.ts_ns, p.linktype, p.data.to_vec(), p.wire_len));
    for part in data.chunks(block) {
        container.feed(part, &mut keep).expect("a capture");
    }
    container.finish(&mut keep).expect("a capture");
    (packets, container)
}

fn some_frames() -> Vec<Vec<u8>> {
    (1..20).map(|n| frame(&vec![n; usize::from(n)])).collect()
}

#[test]
fn blocks_of_any_size_give_the_same() {
    let frames = some_frames();
    let timed: Vec<_> = frames.iter().map(|f| (5, f.clone())).collect();
    for data in [pcap(&timed), pcapng(&frames)] {
        let (whole, container) = read(&data, data.len());
        let bodies: Vec<_> = whole.iter().map(|p| p.2.clone()).collect();
        assert_eq!(bodies, frames);
        assert_eq!(container.counters.damaged_places, 0);
        for block in 1..200 {
            assert_eq!(read(&data, block).0, whole);
        }
    }
}

#[test]
fn packets_within_a_block_are_not_copied() {
    let data = pcap(&[(1, frame(b"a")), (2, frame(b"b"))]);
    let range = data.as_ptr_range();
    let mut container = Container::new();
    let mut seen = 0;
    container
        .feed(&data, &mut |packet: crate::container::Packet<'_>| {
            assert!(range.contains(&packet.data.as_ptr()));
            seen += 1;
        })
        .expect("a capture");
    assert_eq!(seen, 2);
}

#[test]
fn damage_gives_the_same_in_blocks_of_any_size() {
    let frames = some_frames();
    let timed: Vec<_> = frames.iter().map(|f| (5, f.clone())).collect();
    for mut data in [pcap(&timed), pcapng(&frames)] {
        for byte in data.iter_mut().skip(400).take(50) {
            *byte = 0xFF;
        }
        data.truncate(data.len() - 3);
        let (whole, container) = read(&data, data.len());
        assert!(whole.len() > 10 && whole.len() < 19);
        assert_eq!(container.counters.damaged_places, 1);
        assert_eq!(container.counters.truncated, 1);
        for block in 1..200 {
            let (packets, other) = read(&data, block);
            assert_eq!(packets, whole);
            assert_eq!(other.counters, container.counters);
        }
    }
}

#[test]
fn what_is_no_capture() {
    let ignore = &mut |_: Packet<'_>| {};
    assert_eq!(Container::new().finish(ignore), Err(NotACapture(EMPTY)));
    let mut container = Container::new();
    assert_eq!(container.feed(b"abc", ignore), Ok(()));
    assert_eq!(container.finish(ignore), Err(NotACapture(NOT_A_CAPTURE)));
    let mut container = Container::new();
    assert_eq!(
        container.feed(b"abcd", ignore),
        Err(NotACapture(NOT_A_CAPTURE))
    );
}

#[test]
fn merging_asks_for_what_is_due() {
    let files = [
        pcap(&[(30, frame(b"c")), (50, frame(b"e"))]),
        pcap(&[(10, frame(b"a")), (20, frame(b"b")), (40, frame(b"d"))]),
    ];
    let at = |micros: i64| i64::from(TS) * 1_000_000_000 + micros * 1000;
    for first in [[Some(at(30)), Some(at(10))], [None, None]] {
        for block in [1, 10, 60, 1000] {
            let mut merger = Merger::of(&first);
            let mut parts: Vec<_> = files.iter().map(|f| f.chunks(block)).collect();
            let mut asked = Vec::new();
            let mut order = Vec::new();
            while let Some(source) = merger.wants() {
                asked.push(source);
                let mut keep = |p: Packet<'_>| order.push(p.ts_ns);
                match parts[source].next() {
                    Some(data) => merger.feed(source, data, &mut keep),
                    None => merger.finish(source, &mut keep),
                }
                .expect("a capture");
            }
            assert_eq!(order, [10, 20, 30, 40, 50].map(at));
            assert_eq!(asked[0], usize::from(first[0].is_some()));
        }
    }
}

#[test]
fn segments() {
    let data = frame(b"hello");
    let mut decapsulator = Decapsulator::new();
    let mut seen = 0;
    decapsulator.packet(
        Packet {
            ts_ns: 5,
            linktype: 1,
            data: &data,
            wire_len: data.len() as u32,
        },
        &mut |segment| {
            seen += 1;
            assert_eq!(segment.src.to_string(), "10.0.0.1");
            assert_eq!(segment.dst, Ip::from_v4(0x0A00_0002));
            assert_eq!((segment.sport, segment.dport), (40_000, 2181));
            assert_eq!((segment.seq, segment.ack, segment.flags), (7, 9, 0x18));
            assert_eq!((segment.payload, segment.wire_len), (&b"hello"[..], 5));
        },
    );
    assert_eq!(seen, 1);
    assert_eq!(decapsulator.counters.tcp_segments, 1);
}

#[test]
fn addresses_as_text() {
    assert_eq!(
        Ip::from_v6(0, 0xFFFF_0102_0304).to_string(),
        "::ffff:1.2.3.4"
    );
    assert_eq!(Ip::from_v6(0, 1).to_string(), "::1");
    assert_ne!(Ip::from_v6(0, 0x0102_0304), Ip::from_v4(0x0102_0304));
}

/// Any bytes, seen as a packet of any link type, cut anywhere: no panic, and lengths that hold.
#[test]
fn hostile_packets() {
    let mut state = 1_u64;
    let mut random = move || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut decapsulator = Decapsulator::new();
    for round in 0..200_000_i64 {
        let mut data = frame(&[0; 60]);
        for _ in 0..random() % 6 {
            let place = (random() % data.len() as u64) as usize;
            data[place] = random() as u8;
        }
        let interesting = [4, 6, 17, 41, 44, 47, 51, 60];
        data[23] = interesting[(random() % 8) as usize];
        data.truncate((random() % 115) as usize);
        let linktypes = [1, 1, 1, 0, 12, 108, 113, 228, 229, 276];
        decapsulator.packet(
            Packet {
                ts_ns: round * 100_000_000,
                linktype: linktypes[(random() % 10) as usize],
                data: &data,
                wire_len: data.len() as u32 + (random() % 3) as u32 * 20,
            },
            &mut |segment| assert!(segment.payload.len() <= segment.wire_len as usize),
        );
    }
    decapsulator.finish();
    let c = &decapsulator.counters;
    assert_eq!(c.packets, 200_000);
    assert!(c.tcp_segments > 1000 && c.malformed_packets > 1000);
}
