//! What is concluded from the rows of a whole capture: the ways of writes, guarantees that held or not.
//!
//! The reference is `zktrace/analysis/` (Python, over tables), which says why and cites ZooKeeper; modules here have the
//! names of those there and give equal results (`tests/analysis/test_native.py`, `tests/verify`). They read the columns
//! that `arrays` collected, where they lie. Knows nothing of Python and of how results are shown.

pub mod blame;
pub mod columns;
pub mod join;
pub mod learners;
pub mod servers;
pub mod sorted;
pub mod timeline;
pub mod value;
pub mod verify;
pub mod writepath;
pub mod writereport;
pub mod writerows;
