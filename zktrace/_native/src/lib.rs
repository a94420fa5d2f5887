//! Native engine of zktrace: from raw capture bytes to columns and aggregates.
//!
//! The modules up to `agg` are plain Rust without `unsafe` and know nothing of Python; `tables` and `python` are
//! compiled with the `python` feature only. `unsafe` is where the kernel is talked to, and nowhere else: in `live::sys`,
//! and in `pages`, which asks for large pages.
#![deny(unsafe_code)]

pub mod agg;
mod agg_rows;
pub mod analysis;
pub mod analyzer;
pub mod arrays;
pub mod budget;
#[cfg(test)]
mod capture_tests;
pub mod client;
pub mod connection;
pub mod container;
pub mod counters;
pub mod decap;
pub mod decoder;
pub mod election;
pub mod election_resync;
pub mod events;
pub mod fingerprint;
pub mod flow;
pub mod flow_conn;
pub mod flow_past;
pub mod flow_side;
pub mod flow_table;
pub mod fragments;
pub mod framer;
pub mod handshake;
pub mod histogram;
pub mod identity;
pub mod in_flight;
pub mod intern;
pub mod ip;
pub mod joined;
pub mod json;
pub mod json_quorum;
pub mod json_text;
pub mod kept;
pub mod link;
pub mod live;
pub mod machine;
pub mod merge;
mod messages;
pub mod numbers;
pub mod packet_reader;
pub mod packet_resync;
pub mod packets;
pub mod pairing;
mod pcap;
mod pcapng;
pub mod probe;
pub mod quorum;
pub mod relay;
pub mod resync;
pub mod roles;
pub mod rows;
pub mod scan;
pub mod schema;
pub mod siphash;
pub mod snapshot;
pub mod txn;
pub mod windows;

#[cfg(feature = "python")]
mod block_columns;
#[cfg(feature = "python")]
pub mod columns;
#[cfg(feature = "python")]
mod exchange_log;
#[cfg(feature = "python")]
mod exchange_table;
#[cfg(feature = "python")]
pub mod nested;
#[cfg(feature = "python")]
mod packed;
#[cfg(feature = "python")]
mod pages;
#[cfg(feature = "python")]
pub mod python;
#[cfg(feature = "python")]
mod python_analysis;
#[cfg(feature = "python")]
pub mod python_arrays;
#[cfg(feature = "python")]
pub mod python_capture;
#[cfg(feature = "python")]
pub mod python_flow;
#[cfg(feature = "python")]
pub mod python_json;
#[cfg(feature = "python")]
pub mod python_kept;
#[cfg(feature = "python")]
pub mod python_live;
#[cfg(feature = "python")]
mod python_quorum;
#[cfg(feature = "python")]
pub mod python_relay;
#[cfg(feature = "python")]
mod python_rules;
#[cfg(feature = "python")]
pub mod python_tables;
#[cfg(feature = "python")]
mod python_tls;
#[cfg(feature = "python")]
pub mod python_windows;
#[cfg(feature = "python")]
mod quorum_log;
#[cfg(feature = "python")]
mod quorum_table;
#[cfg(feature = "python")]
mod slab;
#[cfg(feature = "python")]
pub mod table_schema;
#[cfg(feature = "python")]
pub mod tables;
