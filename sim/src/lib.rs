//! The simulator of TinyLSM.
