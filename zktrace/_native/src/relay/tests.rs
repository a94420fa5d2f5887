//! The plane against sockets of the standard library: what goes in comes out, and how ends are passed on.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::tap::Queue;
use super::{start, Config, Listener, Relay};

const WAIT: Duration = Duration::from_secs(20);

fn server() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn config(upstreams: &[SocketAddr]) -> Config {
    Config {
        listeners: vec![Listener {
            address: "127.0.0.1:0".parse().unwrap(),
            upstreams: upstreams.iter().copied().map(Into::into).collect(),
        }],
        spill_limit: 64 * 1024,
        slow_reader: None,
        connect_timeout: WAIT,
        max_connections: 100,
        when_down: super::WhenDown::Reset,
        max_frame: 16 << 20,
        ops: super::facts::Ops::default(),
        rules: Vec::new(),
        tls: super::tls::Tls::default(),
    }
}

fn client(relay: &Relay) -> TcpStream {
    let socket = TcpStream::connect(relay.addresses[0]).unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    socket
}

/// Bytes that differ at every place.
fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_u32;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

/// The payloads that the tap has, per direction, from the pcapng blocks of a queue that has ended.
fn tapped(queue: &Queue, server_port: u16) -> [Vec<u8>; 2] {
    let mut out = [Vec::new(), Vec::new()];
    while !queue.ended() {
        let Some(block) = queue.next(WAIT) else { break };
        let mut at = 0;
        while at < block.len() {
            let word =
                |at: usize| u32::from_le_bytes(block[at..at + 4].try_into().unwrap()) as usize;
            if word(at) == 6 {
                let packet = &block[at + 28..at + 28 + word(at + 20)];
                let port = u16::from_be_bytes([packet[20], packet[21]]);
                out[usize::from(port == server_port)].extend_from_slice(&packet[40..]);
            }
            at += word(at + 4);
        }
    }
    out
}

#[test]
fn what_goes_in_comes_out_both_ways_and_is_tapped() {
    let (listener, address) = server();
    let queue = Queue::new(1 << 30, true);
    let relay = start(config(&[address]), vec![Arc::clone(&queue)]).unwrap();
    let there = pattern(3_000_000);
    let back: Vec<u8> = there.iter().rev().copied().collect();
    let (sent, answered) = (there.clone(), back.clone());
    let serving = thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut got = Vec::new();
        socket.read_to_end(&mut got).unwrap();
        socket.write_all(&answered).unwrap();
        got
    });
    let mut socket = client(&relay);
    socket.write_all(&sent).unwrap();
    // Half close: the server reads to the end, and answers then.
    socket.shutdown(Shutdown::Write).unwrap();
    let mut got = Vec::new();
    socket.read_to_end(&mut got).unwrap();
    assert_eq!(serving.join().unwrap(), there);
    assert_eq!(got, back);
    relay.stop();
    assert_eq!(tapped(&queue, address.port()), [there, back]);
    assert_eq!(relay.counters.bytes_to_server.load(Relaxed), 3_000_000);
    assert_eq!(relay.counters.resets.load(Relaxed), 0);
}

#[test]
fn a_reset_is_passed_on_as_one() {
    let (listener, address) = server();
    let relay = start(config(&[address]), Vec::new()).unwrap();
    let mut socket = client(&relay);
    let (accepted, _) = listener.accept().unwrap();
    socket2::SockRef::from(&accepted)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(accepted);
    let error = socket.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn nobody_behind_it_is_a_reset_and_the_next_server_is_tried() {
    let (gone, nowhere) = server();
    drop(gone);
    let relay = start(config(&[nowhere]), Vec::new()).unwrap();
    let error = client(&relay).read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(relay.counters.unreachable.load(Relaxed), 1);

    let (listener, address) = server();
    let relay = start(config(&[nowhere, address]), Vec::new()).unwrap();
    let mut socket = client(&relay);
    socket.write_all(b"x").unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    let mut got = [0; 1];
    accepted.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"x");
    assert_eq!(relay.counters.upstream_failures.load(Relaxed), 1);
}

#[test]
fn one_who_does_not_read_stops_the_other_and_is_reset_in_time() {
    let (listener, address) = server();
    let mut config = config(&[address]);
    config.slow_reader = Some(Duration::from_millis(200));
    let relay = start(config, Vec::new()).unwrap();
    let mut socket = client(&relay);
    let (asleep, _) = listener.accept().unwrap();
    let data = pattern(1 << 20);
    // The buffers of the kernel and the proxy's own fill up; then the proxy reads no more, and ends it.
    let error = loop {
        if let Err(error) = socket.write_all(&data) {
            break error;
        }
        assert!(
            relay.counters.bytes_to_server.load(Relaxed) < 1 << 30,
            "not bounded"
        );
    };
    assert!(
        matches!(
            error.kind(),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
        ),
        "{error}"
    );
    assert_eq!(relay.counters.slow_readers.load(Relaxed), 1);
    drop(asleep);
}

#[test]
fn readers_of_the_tap_that_lag_stop_the_traffic_or_lose_packets() {
    let data = pattern(4 << 20);
    for lossless in [true, false] {
        let (listener, address) = server();
        let queue = Queue::new(256 * 1024, lossless);
        let relay = start(config(&[address]), vec![Arc::clone(&queue)]).unwrap();
        let sent = data.clone();
        let mut socket = client(&relay);
        let writing = thread::spawn(move || {
            socket.write_all(&sent).unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
            socket
        });
        let (mut accepted, _) = listener.accept().unwrap();
        let mut got = vec![0; data.len()];
        if lossless {
            // Nobody reads the tap: less than all gets through. Then somebody does.
            accepted
                .set_read_timeout(Some(Duration::from_millis(500)))
                .unwrap();
            let mut count = 0;
            let stopped = loop {
                match accepted.read(&mut got[count..]) {
                    Ok(0) => break false,
                    Ok(more) => count += more,
                    Err(_) => break true,
                }
            };
            assert!(stopped && count < data.len(), "{count}");
            accepted.set_read_timeout(Some(WAIT)).unwrap();
            let reading = {
                let queue = Arc::clone(&queue);
                let port = address.port();
                thread::spawn(move || tapped(&queue, port))
            };
            accepted.read_exact(&mut got[count..]).unwrap();
            drop((accepted, writing.join().unwrap()));
            relay.stop();
            assert!(reading.join().unwrap()[0] == data);
            assert_eq!(relay.counters.tap_lost_packets.load(Relaxed), 0);
        } else {
            accepted.read_exact(&mut got).unwrap();
            drop((accepted, writing.join().unwrap()));
            relay.stop();
            let kept = tapped(&queue, address.port())[0].len() as u64;
            assert!(kept < data.len() as u64);
            let lost = relay.counters.tap_lost_bytes.load(Relaxed);
            assert!(
                lost > 0 && kept + lost >= data.len() as u64,
                "{kept} {lost}"
            );
        }
        assert!(got == data);
    }
}

#[test]
fn more_connections_than_allowed_are_refused_and_stopping_ends_all() {
    let (listener, address) = server();
    let mut config = config(&[address]);
    config.max_connections = 1;
    let relay = start(config, Vec::new()).unwrap();
    let mut first = client(&relay);
    first.write_all(b"x").unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    accepted.read_exact(&mut [0; 1]).unwrap();
    let error = client(&relay).read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(relay.counters.refused.load(Relaxed), 1);
    assert_eq!(relay.counters.open.load(Relaxed), 1);
    relay.stop();
    assert_eq!(
        first.read(&mut [0; 1]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    assert_eq!(relay.counters.open.load(Relaxed), 0);
}

/// A file of its own below the system's folder for such, removed when it is dropped.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("zktrace-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn recordings_rotate_at_whole_blocks_and_hold_no_password() {
    use super::recording::{Options, Recording};
    use super::tap::{folded, sum};
    let folder = Folder::new("recordings");
    let (listener, address) = server();
    let queue = Queue::new(1 << 20, true);
    let options = Options {
        path: folder.0.join("rec.pcapng"),
        rotate_bytes: Some(1 << 20),
        rotate_after: None,
        keep: Some(2),
        redact: true,
        data_kept: None,
        filter: None,
    };
    let recording = Recording::start(options.clone(), Arc::clone(&queue)).unwrap();
    let relay = start(config(&[address]), vec![queue]).unwrap();
    // A ConnectRequest whose password is 16 sevens, then frames of zeros.
    let mut sent = [&[0, 0, 0, 45][..], &[0; 24], &[0, 0, 0, 16], &[7; 16], &[0]].concat();
    for _ in 0..50 {
        sent.extend_from_slice(&[0, 1, 0, 0]);
        sent.extend_from_slice(&[0; 65_536]);
    }
    let expected: Vec<u8> = sent.clone();
    let writing = sent.clone();
    let mut socket = client(&relay);
    let writer = thread::spawn(move || {
        socket.write_all(&writing).unwrap();
        socket
    });
    let (mut accepted, _) = listener.accept().unwrap();
    let mut got = vec![0; sent.len()];
    accepted.read_exact(&mut got).unwrap();
    assert!(got == expected, "what is relayed is not redacted");
    drop((accepted, writer.join().unwrap()));
    relay.stop();
    recording.finish();
    let (bytes, files) = recording.written();
    assert!(bytes > sent.len() as u64);
    assert!(files >= 3, "{files}");
    assert!(!options.file(files - 2).exists());
    for number in [files - 1, files] {
        let content = std::fs::read(options.file(number)).unwrap();
        assert!(content.len() <= 1 << 20);
        let mut at = 0;
        while at < content.len() {
            let word = |at: usize| u32::from_le_bytes(content[at..at + 4].try_into().unwrap());
            if word(at) == 6 {
                let packet = &content[at + 28..at + 28 + word(at + 20) as usize];
                assert!(!packet[40..].contains(&7), "a password");
                assert_eq!(
                    folded(sum(6 + packet.len() as u64 - 20, &packet[12..])),
                    0xFFFF,
                    "checksum"
                );
            }
            let length = word(at + 4);
            assert_eq!(word(at + length as usize - 4), length);
            at += length as usize;
        }
        assert_eq!(at, content.len());
    }
}

#[test]
fn behind_a_loss_nothing_of_a_connection_is_recorded() {
    use super::recording::{Options, Recording};
    use super::tap::{Tap, TapFlow};
    let folder = Folder::new("lost");
    let options = Options {
        path: folder.0.join("lost.pcapng"),
        rotate_bytes: None,
        rotate_after: None,
        keep: None,
        redact: true,
        data_kept: None,
        filter: None,
    };
    let whole = Queue::new(1 << 20, true);
    let mut tap = Tap::new(vec![Arc::clone(&whole)], Arc::default());
    let ends = ["127.0.0.1:5", "127.0.0.1:6"].map(|end| end.parse().unwrap());
    let mut flow = TapFlow::new(ends[0], ends[1]);
    flow.open(&mut tap, 1);
    flow.data(&mut tap, 0, &[&[0, 0, 0, 45][..], &[0; 45]].concat(), 2);
    tap.flush();
    // A frame of which only the second half is recorded: it looks like one that needs not be looked at.
    flow.data(&mut tap, 0, &[0, 0, 0, 100, 0, 0], 3);
    tap.flush();
    let auth = [
        &[0, 0, 0, 60, 0, 0, 0, 1, 0, 0, 0, 9][..],
        b"bob:secret",
        &[0; 42],
    ]
    .concat();
    flow.data(&mut tap, 0, &auth, 4);
    tap.close();
    let queue = Queue::new(1 << 20, true);
    let mut blocks: Vec<_> = std::iter::from_fn(|| whole.next(Duration::ZERO)).collect();
    assert_eq!(blocks.len(), 4);
    blocks.remove(2);
    for block in blocks.split_off(1) {
        queue.push(block);
    }
    queue.close();
    let recording = Recording::start(options.clone(), queue).unwrap();
    recording.finish();
    let content = std::fs::read(options.file(1)).unwrap();
    assert!(content.len() > 60 + 3 * 72);
    assert!(!content.windows(6).any(|part| part == b"secret"));
}
