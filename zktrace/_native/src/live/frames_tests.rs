use super::*;

/// A block of frames as the kernel writes it: (ethertype, status, tag, data, length on the wire).
fn block(frames: &[(u16, u32, u16, &[u8], u32)]) -> Vec<u8> {
    let mut out = vec![0; 48];
    out[12..16].copy_from_slice(&(frames.len() as u32).to_ne_bytes());
    out[16..20].copy_from_slice(&48u32.to_ne_bytes());
    for (index, (protocol, status, tci, data, wire)) in frames.iter().enumerate() {
        let mut frame = vec![0; 80];
        let next = (80 + data.len()).next_multiple_of(16) as u32;
        let last = index + 1 == frames.len();
        for (at, value) in [
            (0, if last { 0 } else { next }),
            (4, 1_700_000_000),
            (8, 7 + index as u32),
            (12, data.len() as u32),
            (16, *wire),
            (20, *status),
            (32, u32::from(*tci)),
        ] {
            frame[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        frame[24..26].copy_from_slice(&80u16.to_ne_bytes());
        frame[50..52].copy_from_slice(&protocol.to_be_bytes());
        frame[52..56].copy_from_slice(&3u32.to_ne_bytes());
        frame[56..58].copy_from_slice(&1u16.to_ne_bytes());
        frame.extend_from_slice(data);
        frame.resize(next as usize, 0);
        out.extend_from_slice(&frame);
    }
    out
}

fn packets(block: &[u8], cooked: bool) -> Vec<(i64, u16, Vec<u8>, u32)> {
    let mut cursor = Cursor::first(block);
    let mut out = Vec::new();
    while let Some(frame) = cursor.frame(block) {
        let packet = frame.packet(cooked);
        out.push((
            packet.ts_ns,
            packet.linktype,
            packet.data.to_vec(),
            packet.wire_len,
        ));
        cursor.step(&frame);
    }
    out
}

#[test]
fn frames_of_a_block_in_order() {
    let block = block(&[(IPV4, 1, 0, b"first", 5), (IPV4, 1, 0, b"second one", 99)]);
    let first = 1_700_000_000_000_000_007;
    assert_eq!(
        packets(&block, false),
        [
            (first, ETHERNET, b"first".to_vec(), 5),
            (first + 1, ETHERNET, b"second one".to_vec(), 99)
        ]
    );
}

const V4: [u8; 20] = [
    0x45, 0, 0, 20, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
];

#[test]
fn cooked_frames_begin_at_the_ip_packet() {
    // A tag whose priority makes it look like an IP packet.
    let tagged = [&[0x45, 0x2A, 0x08, 0x00], &V4[..]].concat();
    let twice = [&[0x00, 0x07, 0x81, 0x00], &tagged[..]].concat();
    let mut long = V4.to_vec();
    (long[2], long[3], long[4]) = (8, 0, 0x45);
    let mut v6 = vec![0x60, 0, 0, 0, 0, 0, 6, 64];
    v6.resize(40, 0);
    let tagged6 = [&[0x00, 0x2A, 0x86, 0xDD], &v6[..]].concat();
    for ethertype in [0x8100, IPV4] {
        let block = block(&[
            (ethertype, 1, 0, &tagged, 24),
            (ethertype, 1, 0, &twice, 28),
            (ethertype, 1, 0, &V4, 20),
            (ethertype, 1, 0, &long, 2048),
            (ethertype, 1, 0, &v6, 40),
            (ethertype, 1, 0, &tagged6, 44),
        ]);
        let data: Vec<_> = packets(&block, true)
            .into_iter()
            .map(|(_, linktype, data, wire)| (linktype, data, wire))
            .collect();
        assert_eq!(
            data,
            [
                (RAW_IP, V4.to_vec(), 20),
                (RAW_IP, V4.to_vec(), 20),
                (RAW_IP, V4.to_vec(), 20),
                (RAW_IP, long.clone(), 2048),
                (RAW_IP, v6.clone(), 40),
                (RAW_IP, v6.clone(), 40),
            ]
        );
    }
}

fn records(block: &[u8], cooked: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let cursor = Cursor::first(block);
    cursor
        .frame(block)
        .unwrap()
        .record(cooked, Form::Pcap, &mut out);
    out
}

#[test]
fn a_record_has_its_tag_back() {
    let frame = [&[1; 6][..], &[2; 6], &[8, 0, 0x45]].concat();
    let block = block(&[(IPV4, 1 | VLAN_VALID, 42, &frame, 60)]);
    let out = records(&block, false);
    assert_eq!(u32_at(&out, 8), 19);
    assert_eq!(u32_at(&out, 12), 64);
    let tagged = [&[1; 6][..], &[2; 6], &[0x81, 0, 0, 42], &[8, 0, 0x45]].concat();
    assert_eq!(out.get(16..), Some(&tagged[..]));
}

#[test]
fn a_cooked_record_can_be_decoded() {
    let tagged = [&[0, 7, 8, 0], &V4[..]].concat();
    for data in [&V4[..], &tagged] {
        let block = block(&[(IPV4, 1 | VLAN_VALID, 42, data, data.len() as u32)]);
        let out = records(&block, true);
        let data = out.get(16..).unwrap();
        assert_eq!(u32_at(&out, 8) as usize, data.len());
        let network = crate::link::network_packet(276, data, data.len() as u32);
        assert_eq!(network, Ok((IPV4, &V4[..], 20)));
    }
}

#[test]
fn nonsense_is_no_frame() {
    let good = block(&[(IPV4, 1, 0, b"first", 5), (IPV4, 1, 0, b"second", 6)]);
    for length in 0..good.len() {
        packets(good.get(..length).unwrap(), true);
        packets(good.get(..length).unwrap(), false);
    }
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] = 0xFF;
        assert!(packets(&bad, true).len() <= 256);
    }
}
