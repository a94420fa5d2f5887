//! The client port's stream machine.
