//! From a run to text: for people, for a page, for CI. Pure; one file for each form, and `words` for what several say. Nothing is
//! computed here that another form could need, too.

pub mod html;
pub mod junit;
pub mod markdown;
pub mod plots;
pub mod text;
pub mod words;
