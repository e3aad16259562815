//! From a run to text: for people, for a page, for CI. Pure; one file for each form, and `words` for what several say. Nothing is
//! computed here that another form could need, too.

pub(crate) mod benchmark;
pub(crate) mod colours;
pub(crate) mod csv;
pub(crate) mod github;
pub(crate) mod html;
pub(crate) mod junit;
pub(crate) mod markdown;
pub(crate) mod openmetrics;
pub(crate) mod plots;
pub(crate) mod text;
pub(crate) mod words;
