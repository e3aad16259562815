//! From a corpus to a run: bounds, confidence, comparison, gates. Pure; a method that is borrowed names its source.

pub(crate) mod compare;
mod fisher;
pub(crate) mod gates;
mod groups;
mod nodes;
mod normal;
pub(crate) mod notes;
mod permute;
mod positions;
mod random;
pub(crate) mod ranks;
pub(crate) mod run;
mod sample;
mod settings;
