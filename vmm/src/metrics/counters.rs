//! Counters that their owner, such as a device, counts up, and that whoever writes metrics reads.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts up from the start of the process; it wraps.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// `value` more.
    pub fn add(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    /// What it has come to.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A structure of [`Counter`]s and `figures()`, which has each by its name.
macro_rules! counters {
    ($(#[$about:meta])* pub struct $name:ident { $($(#[$of_counter:meta])* $counter:ident),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Debug, Default)]
        pub struct $name {
            $($(#[$of_counter])* pub $counter: $crate::metrics::Counter),+
        }

        impl $name {
            /// All of them by name.
            pub fn figures(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($counter), self.$counter.get())),+]
            }
        }
    };
}
pub(crate) use counters;
