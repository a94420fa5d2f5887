//! Finding a frame boundary again after bytes were lost.
