//! Where there is no AF_PACKET.

use std::io;
use std::time::Duration;

use super::{Instruction, Spec, Turn};
use crate::container::Packet;

/// Cannot be had.
pub enum Capture {}

impl Capture {
    pub fn open(_: &Spec) -> io::Result<Self> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "native live capture is not on this platform (it needs Linux's AF_PACKET)",
        ))
    }

    pub fn wait(&mut self, _: i32) -> io::Result<bool> {
        match *self {}
    }

    pub fn turn(&mut self, _: Duration, _: u64, _: &mut impl FnMut(Packet<'_>)) -> Turn {
        match *self {}
    }

    pub fn filter(&mut self, _: &[Instruction]) -> io::Result<()> {
        match *self {}
    }

    pub fn discard(&mut self) -> io::Result<()> {
        match *self {}
    }

    pub fn drops(&mut self) -> io::Result<u64> {
        match *self {}
    }

    pub fn take_records(&mut self) -> Vec<u8> {
        match *self {}
    }
}
