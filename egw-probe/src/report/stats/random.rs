//! Random numbers for shuffles and resamples: the same ones on every machine. Pure.

/// `SplitMix64` (Steele, Lea and Flood, OOPSLA 2014).
pub(crate) struct Random(pub u64);

impl Random {
    /// The seed of every report: the same runs get the same answer every time.
    pub(crate) const SEED: u64 = 0x6567_772d_7072_6f62;

    /// The next word.
    pub(crate) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// One of the numbers below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        // The high half of a product: no bias worth the name at these sizes.
        ((u128::from(self.word()) * end as u128) >> 64) as usize
    }
}
