//! One AF_PACKET socket with its ring. What `unsafe` this takes is here: system calls, and a view of
//! the memory that is shared with the kernel.
//!
//! Why that is sound: the kernel owns a block until it sets TP_STATUS_USER in the block's status, and
//! does not write to it from then on until the status is TP_STATUS_KERNEL again. `block` looks at the
//! status (acquire) before it gives out the block; the slice borrows the ring, and `release`, which
//! gives the block back (release), needs the ring exclusively.
#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Instruction, Interface, Spec};

/// Holds a packet of any length that there is (64 KiB, more with IPv6 jumbograms on loopback).
const BLOCK: usize = 1 << 20;
/// At least so many blocks, since one is being filled and one being read.
const MIN_BLOCKS: usize = 4;
/// TPACKET_V3 packs frames by their length; it wants this all the same.
const FRAME: usize = 1 << 11;
/// Offset of `block_status` in a block.
const STATUS: usize = 8;

/// Socket and ring of one interface.
pub struct Ring {
    socket: OwnedFd,
    memory: NonNull<u8>,
    blocks: usize,
    current: usize,
}

// SAFETY: the memory belongs to this ring alone, and all that writes to it takes `&mut self`.
unsafe impl Send for Ring {}
// SAFETY: the same; what `&self` offers only reads.
unsafe impl Sync for Ring {}

impl Ring {
    pub fn open(spec: &Spec, interface: Interface) -> io::Result<Ring> {
        let kind = if spec.cooked {
            libc::SOCK_DGRAM
        } else {
            libc::SOCK_RAW
        };
        // Without a protocol it gets nothing before it is bound, when the filter is in place.
        // SAFETY: a plain system call; the descriptor is new and ours.
        let socket = unsafe {
            let fd = libc::socket(libc::AF_PACKET, kind | libc::SOCK_CLOEXEC, 0);
            OwnedFd::from_raw_fd(check(fd)?)
        };
        attach_filter(&socket, &spec.program)?;
        if interface.loopback {
            // The filter sees to it as well: kernels before 4.20 do not know this.
            let _ = set(&socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1i32);
        }
        let version = libc::tpacket_versions::TPACKET_V3 as i32;
        set(&socket, libc::SOL_PACKET, libc::PACKET_VERSION, &version)?;
        let blocks = (spec.ring_bytes / BLOCK).max(MIN_BLOCKS);
        let request = libc::tpacket_req3 {
            tp_block_size: BLOCK as u32,
            tp_block_nr: blocks as u32,
            tp_frame_size: FRAME as u32,
            tp_frame_nr: (blocks * (BLOCK / FRAME)) as u32,
            tp_retire_blk_tov: spec.block_ms,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set(&socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        let memory = map(&socket, blocks * BLOCK)?;
        let ring = Ring {
            socket,
            memory,
            blocks,
            current: 0,
        };
        ring.bind(interface.index)?;
        if spec.promiscuous && interface.index != 0 {
            // SAFETY: a C struct of integers, for which zero is a value.
            let mut member: libc::packet_mreq = unsafe { zeroed() };
            member.mr_ifindex = interface.index as i32;
            member.mr_type = libc::PACKET_MR_PROMISC as u16;
            let option = libc::PACKET_ADD_MEMBERSHIP;
            set(&ring.socket, libc::SOL_PACKET, option, &member)?;
        }
        Ok(ring)
    }

    fn bind(&self, index: u32) -> io::Result<()> {
        // SAFETY: a C struct of integers, for which zero is a value.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index as i32;
        // SAFETY: address and length are those of a live value.
        check(unsafe {
            libc::bind(
                self.socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        })?;
        Ok(())
    }

    /// Puts another filter in place of the one there is.
    pub fn filter(&self, program: &[Instruction]) -> io::Result<()> {
        attach_filter(&self.socket, program)
    }

    /// The current block, if the kernel has handed it over.
    #[inline]
    pub fn block(&self) -> Option<&[u8]> {
        if self.status().load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return None;
        }
        // SAFETY: within the mapping, and ours until `release`, see above.
        Some(unsafe { std::slice::from_raw_parts(self.start().as_ptr(), BLOCK) })
    }

    /// Gives the current block back to the kernel.
    pub fn release(&mut self) {
        self.status()
            .store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.current = (self.current + 1) % self.blocks;
    }

    /// Packets lost since the last call.
    pub fn drops(&mut self) -> io::Result<u64> {
        // SAFETY: a C struct of integers, for which zero is a value.
        let mut statistics: libc::tpacket_stats_v3 = unsafe { zeroed() };
        let option = libc::PACKET_STATISTICS;
        get(&self.socket, libc::SOL_PACKET, option, &mut statistics)?;
        Ok(u64::from(statistics.tp_drops))
    }

    fn start(&self) -> NonNull<u8> {
        // SAFETY: `current` is below `blocks`, so this is within the mapping.
        unsafe { self.memory.add(self.current * BLOCK) }
    }

    fn status(&self) -> &AtomicU32 {
        // SAFETY: within the mapping, aligned (blocks are), and both sides access it atomically.
        unsafe { self.start().add(STATUS).cast().as_ref() }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing borrows from it any more.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.blocks * BLOCK) };
    }
}

/// Waits until a ring has a block, or a signal came. True: an interface is down.
pub fn wait<'a>(rings: impl Iterator<Item = &'a Ring>, timeout_ms: i32) -> io::Result<bool> {
    let mut waiting: Vec<libc::pollfd> = rings
        .map(|ring| libc::pollfd {
            fd: ring.socket.as_raw_fd(),
            events: libc::POLLIN | libc::POLLERR,
            revents: 0,
        })
        .collect();
    // SAFETY: pointer and length are those of the vector.
    let ready = unsafe {
        libc::poll(
            waiting.as_mut_ptr(),
            waiting.len() as libc::nfds_t,
            timeout_ms,
        )
    };
    match check(ready) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(false),
        Err(error) => return Err(error),
    }
    let mut down = false;
    for at in waiting.iter().filter(|at| at.revents & libc::POLLERR != 0) {
        // Reading the error clears it; an interface that is down is waited for.
        let mut error = 0i32;
        get_raw(at.fd, libc::SOL_SOCKET, libc::SO_ERROR, &mut error)?;
        match error {
            0 => {}
            libc::ENETDOWN | libc::ENXIO | libc::ENODEV => down = true,
            _ => return Err(io::Error::from_raw_os_error(error)),
        }
    }
    Ok(down)
}

/// linux/if_packet.h
const PACKET_IGNORE_OUTGOING: i32 = 23;

fn attach_filter(socket: &OwnedFd, program: &[Instruction]) -> io::Result<()> {
    let mut program: Vec<libc::sock_filter> = program
        .iter()
        .map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k })
        .collect();
    let length =
        u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog {
        len: length,
        filter: program.as_mut_ptr(),
    };
    // The kernel checks and copies it.
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

fn map(socket: &OwnedFd, length: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a new mapping of the socket's ring; nothing else is replaced.
    let memory = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            socket.as_raw_fd(),
            0,
        )
    };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(memory.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
}

fn set<T>(socket: &OwnedFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: pointer and length are those of a live value, which the kernel reads.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const *value).cast(),
            size_of::<T>() as u32,
        )
    })?;
    Ok(())
}

fn get<T>(socket: &OwnedFd, level: i32, option: i32, value: &mut T) -> io::Result<()> {
    get_raw(socket.as_raw_fd(), level, option, value)
}

fn get_raw<T>(fd: RawFd, level: i32, option: i32, value: &mut T) -> io::Result<()> {
    let mut length = size_of::<T>() as u32;
    // SAFETY: the kernel writes at most `length` bytes; all T here are structs of integers.
    check(unsafe { libc::getsockopt(fd, level, option, (&raw mut *value).cast(), &mut length) })?;
    Ok(())
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
