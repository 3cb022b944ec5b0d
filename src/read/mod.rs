//! Reading: get and scan over a pinned view.
