//! Fresh numbers for every run of a test, repeatable through the seed that it prints.

use std::time::{SystemTime, UNIX_EPOCH};

use arbtest::arbitrary::{Result, Unstructured};

/// SplitMix64.
pub struct Random(u64);

impl Random {
    /// Seeded by `GRAPHC_TEST_SEED` or else by the clock; prints the seed.
    pub fn from_env(test: &str) -> Self {
        let clock = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |time| time.as_nanos() as u64)
        };
        let given = std::env::var("GRAPHC_TEST_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(clock);
        eprintln!("{test}: GRAPHC_TEST_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Checks a property so many times, with so many random bytes each. By count and not by time: whoever asserts
    /// afterwards that this or that was met must have met as much on a machine that is busy.
    pub fn check(
        &mut self,
        count: usize,
        bytes: u32,
        mut property: impl FnMut(&mut Unstructured<'_>) -> Result<()>,
    ) {
        for _ in 0..count {
            // The upper half is the seed proper, the lower one the number of bytes.
            let seed = self.next() << 32 | u64::from(bytes);
            arbtest::arbtest(&mut property).seed(seed).run();
        }
    }

    /// A number below `limit`, all nearly equally likely.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// The numbers below `count` in any order.
    pub fn permutation(&mut self, count: u64) -> Vec<u64> {
        let mut all: Vec<u64> = (0..count).collect();
        for at in (1..all.len()).rev() {
            all.swap(at, self.below(at as u64 + 1) as usize);
        }
        all
    }

    /// A number in [-1, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }
}
