//! From a corpus to a run: estimates, confidence, comparison, gates. Pure; a method that is borrowed names its source.

pub(crate) mod compare;
pub(crate) mod gates;
pub(crate) mod notes;
pub(crate) mod npmle;
pub(crate) mod ranks;
pub(crate) mod run;
