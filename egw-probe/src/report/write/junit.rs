//! The gates as JUnit XML, in the form that Jenkins, GitLab and GitHub actions read.

use std::fmt::Write;

use super::text;
use super::words::escape;
use crate::report::data::figures::count;
use crate::report::data::run::Report;

/// Writes the gates, each a test case, and one for whether everything could be read. The text report goes along.
pub fn xml(report: &Report) -> String {
    let failures = report.gates.iter().filter(|gate| !gate.passed).count();
    let runs = [Some(&report.run), report.compared_with.as_ref()].into_iter().flatten();
    let skipped: u64 = runs.clone().map(|run| run.read.skipped).sum();
    let unread = skipped > 0 || runs.clone().any(|run| run.clients.total == 0);
    let totals = format!(
        "tests=\"{}\" failures=\"{failures}\" errors=\"{}\"",
        report.gates.len() + 1,
        u8::from(unread)
    );
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(xml, "<testsuites name=\"egw-probe report\" {totals}>");
    let _ = writeln!(xml, "  <testsuite name=\"egw-probe report\" {totals} skipped=\"0\">");
    for gate in &report.gates {
        let _ = write!(xml, "    <testcase classname=\"egw-probe.gate\" name=\"{}\"", escape(&gate.gate));
        if gate.passed {
            xml.push_str("/>\n");
        } else {
            let found = escape(&gate.found);
            let _ = writeln!(xml, ">\n      <failure type=\"gate\" message=\"{found}\"/>\n    </testcase>");
        }
    }
    xml.push_str("    <testcase classname=\"egw-probe.read\" name=\"everything was read\"");
    if unread {
        let message = if skipped > 0 {
            format!("{} documents were skipped", count(skipped))
        } else {
            "no result was found".to_owned()
        };
        let _ = writeln!(xml, ">\n      <error type=\"skipped\" message=\"{message}\">");
        for document in runs.flat_map(|run| &run.read.skipped_documents) {
            let _ = writeln!(xml, "{}", escape(&format!("{}: {}", document.place, document.reason)));
        }
        xml.push_str("      </error>\n    </testcase>\n");
    } else {
        xml.push_str("/>\n");
    }
    // Line by line: what makes a name harmless takes line ends for harm.
    let text: Vec<String> = text::text(report).lines().map(escape).collect();
    let _ = writeln!(xml, "    <system-out>{}</system-out>\n  </testsuite>\n</testsuites>", text.join("\n"));
    xml
}
