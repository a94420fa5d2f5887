//! Event rows to Arrow columns.
