//! Asks for large pages where much memory is about to be filled. With pages of 4 KiB the kernel's work on a
//! table of a large capture (a fault per page) costs more than decoding. Linux gives pages of 2 MiB where it is
//! asked to (transparent huge pages; `madvise` mode is what distributions set); elsewhere, or where it will not,
//! nothing happens. Knows nothing of what the memory is for.
#![cfg_attr(target_os = "linux", allow(unsafe_code))]

use std::mem::MaybeUninit;

/// Less would gain nothing.
pub const WORTH: usize = 4 << 20;

/// This will all be written.
#[cfg(target_os = "linux")]
pub fn prefer_large<T>(memory: &mut [MaybeUninit<T>]) {
    let bytes = size_of_val(memory);
    if bytes < WORTH {
        return;
    }
    /// madvise wants the beginning of a page. Where pages are larger than this it refuses, and nothing is lost.
    const PAGE: usize = 4 << 10;
    let before = memory.as_ptr().addr() % PAGE;
    let start = memory.as_mut_ptr().wrapping_byte_sub(before);
    let length = (before + bytes) / PAGE * PAGE;
    // SAFETY: this advice changes neither what is in memory nor whether it may be accessed, whatever it returns; nothing
    // is read or written here. What shares the first page with the memory at hand is as well off as before.
    unsafe { libc::madvise(start.cast(), length, libc::MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
pub fn prefer_large<T>(_: &mut [MaybeUninit<T>]) {}
