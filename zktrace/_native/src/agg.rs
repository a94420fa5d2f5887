//! Event rows to counts and latency histograms.
