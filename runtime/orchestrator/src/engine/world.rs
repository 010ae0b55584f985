//! Where time and chance really come from.

use super::World;
use chrono::{DateTime, Utc};
use ring::rand::{SecureRandom, SystemRandom};

/// The system's clock and its random numbers.
#[derive(Debug)]
pub struct RealWorld(SystemRandom);

impl Default for RealWorld {
    fn default() -> Self {
        Self(SystemRandom::new())
    }
}

impl World for RealWorld {
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }

    fn random(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        // getrandom(2) with its defaults does not fail once the kernel's pool is initialised, and waits until then.
        self.0.fill(&mut bytes).expect("the kernel gives random numbers");
        bytes
    }
}
