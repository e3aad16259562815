//! The ground floor: what the rooms above hand to each other, as plain data. What reads fills it in, what computes adds to it, what
//! writes only looks. Nothing here knows a file, a method of statistics or a form of output.

pub(crate) mod brackets;
pub(crate) mod client;
pub(crate) mod egress;
pub(crate) mod figures;
pub(crate) mod interval;
pub(crate) mod labels;
pub(crate) mod run;
