//! The two dual questions: may a reader see this entry, and may this entry be dropped.
