//! Any bytes, taken as a capture: no panic, no overflow, no endless loop, bounded memory.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| _native::decoder::fuzz_one(data));
