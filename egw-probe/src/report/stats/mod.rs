//! From a corpus to a run: estimates, confidence, comparison, gates. Pure; a method that is borrowed names its source.

pub mod compare;
pub mod gates;
pub mod notes;
pub mod npmle;
pub mod ranks;
pub mod run;
