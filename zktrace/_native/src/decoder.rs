//! The whole engine: capture bytes in, tables and aggregates out.
