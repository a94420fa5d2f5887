//! Live capture on Linux: AF_PACKET sockets with TPACKET_V3 rings (packet_mmap.rst of the kernel's
//! documentation), packets handed out where they lie in the ring. Knows neither TCP nor ZooKeeper.
//!
//! `sys` talks to the kernel and has the `unsafe` that this takes; `frames` reads what is in a block of a
//! ring, `capture` takes packets from several rings in order of time. Elsewhere `other` says that there
//! is no such thing.

#[cfg(target_os = "linux")]
mod capture;
#[cfg(any(target_os = "linux", test))]
mod frames;
#[cfg(target_os = "linux")]
mod sys;

#[cfg(target_os = "linux")]
pub use capture::Capture;

#[cfg(not(target_os = "linux"))]
mod other;
#[cfg(not(target_os = "linux"))]
pub use other::Capture;

/// One instruction of a classic BPF program: code, jump if true, jump if false, constant.
pub type Instruction = (u16, u8, u8, u32);

/// Where and how to listen.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Interfaces by number; 0 is all of them.
    pub interfaces: Vec<Interface>,
    /// Packets begin at the network layer, whatever the link: interfaces without Ethernet, or several
    /// kinds together.
    pub cooked: bool,
    /// What the kernel is to hand over. Its return value is the snap length.
    pub program: Vec<Instruction>,
    pub promiscuous: bool,
    /// Of each interface's ring, about.
    pub ring_bytes: usize,
    /// After this time a block is handed over though it is not full.
    pub block_ms: u32,
    /// Packets are also to be had as records of a file.
    pub record: Option<Form>,
}

/// A form of capture file, both with nanoseconds and this machine's byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Pcap,
    /// Enhanced packet blocks of interface 0.
    Pcapng,
}

#[derive(Clone, Copy, Debug)]
pub struct Interface {
    pub index: u32,
    /// It shows packets that leave, and the same ones as they come in.
    pub loopback: bool,
}

/// What a turn of a capture gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    pub packets: u64,
    /// Nothing more waits in a ring.
    pub idle: bool,
}
