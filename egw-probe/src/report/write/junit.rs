//! The gates as JUnit XML, in the form that Jenkins, GitLab and GitHub actions read: `junit.xml`, filled in.

use askama::Template;

use crate::report::data::run::{Gate, Report, SkippedDocument};
use crate::report::write::{text, words};

#[derive(Template)]
#[template(path = "junit.xml")]
struct Document<'a> {
    gates: &'a [Gate],
    failures: usize,
    /// Why not everything was read.
    unread: Option<String>,
    skipped: Vec<&'a SkippedDocument>,
    /// Told line by line: what makes a name harmless takes line ends for harm.
    text: String,
}

/// Writes the gates, each a test case, and one for whether everything could be read. The text report goes along.
pub(crate) fn xml(report: &Report) -> String {
    let runs = || [Some(&report.run), report.compared_with.as_ref()].into_iter().flatten();
    let document = Document {
        gates: &report.gates,
        failures: report.gates.iter().filter(|gate| !gate.passed).count(),
        unread: words::unread(report),
        skipped: runs().flat_map(|run| &run.read.skipped_documents).collect(),
        text: text::text(report, false),
    };
    document.render().expect("writing to a String cannot fail")
}
