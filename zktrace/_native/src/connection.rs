//! One connection: probes its role, feeds its machine.
