//! All brackets of a run in few lines, so that a report of it can be compared with: what `--output json` keeps of clients. Pure.
//!
//! A line is `LOWER UPPER CLIENTS OUTCOME [NODE]`, seconds, with `-` for an upper end that there is none of.

use crate::report::data::client::{ClientResult, Verdict};
use crate::report::data::interval::Interval;

/// Lines of one run at most; of more, ends are rounded outward until there are no more.
const LINES: usize = 200_000;
/// What ends are rounded to then is so often in a second at first.
const PER_SECOND: f64 = 1e6;

/// Clients with one bracket.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Where their delays lie.
    pub delay: Interval,
    /// So many.
    pub clients: u64,
    /// How their tests ended.
    pub verdict: Verdict,
    /// Their node.
    pub node: Option<String>,
}

const WORDS: [(Verdict, &str); 3] = [
    (Verdict::Masqueraded, "masqueraded"),
    (Verdict::Unfinished, "unfinished"),
    (Verdict::TimedOut, "timed_out"),
];

impl std::fmt::Display for Line {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Interval { lower, upper } = self.delay;
        let end = if upper.is_finite() { upper.to_string() } else { "-".to_owned() };
        let word = WORDS.iter().find(|(verdict, _)| *verdict == self.verdict).map_or("", |(_, word)| word);
        write!(to, "{lower} {end} {} {word}", self.clients)?;
        self.node.iter().try_for_each(|node| write!(to, " {node}"))
    }
}

impl std::str::FromStr for Line {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let mut words = line.splitn(5, ' ');
        let mut word = || words.next().ok_or_else(|| format!("{line:?} is no bracket"));
        let number = |word: &str| word.parse::<f64>().map_err(|_| format!("{word:?} in {line:?} is no time"));
        let (lower, upper, clients, outcome) = (number(word()?)?, word()?, word()?, word()?);
        let upper = if upper == "-" { f64::INFINITY } else { number(upper)? };
        let clients = clients.parse().map_err(|_| format!("{clients:?} in {line:?} is no count"))?;
        let verdict = WORDS.iter().find(|(_, word)| *word == outcome).map(|(verdict, _)| *verdict);
        let verdict = verdict.ok_or_else(|| format!("{outcome:?} in {line:?} is no outcome"))?;
        Ok(Self { delay: Interval { lower, upper }, clients, verdict, node: words.next().map(str::to_owned) })
    }
}

/// Everybody's brackets, in order; nodes by these names. Ends are exact, so that a run does not differ from its own report.
pub(crate) fn lines(clients: &[ClientResult], nodes: &[String]) -> Vec<String> {
    // Of times above zero the bits are in the same order.
    let bracket = |one: &ClientResult| {
        let Interval { lower, upper } = one.delay;
        (lower.max(0.0).to_bits(), upper.to_bits(), one.verdict, one.node)
    };
    let mut all: Vec<_> = clients.iter().map(|one| (bracket(one), 1_u64)).collect();
    let mut per_second = PER_SECOND;
    loop {
        all.sort_unstable();
        all.dedup_by(|(later, more), (first, clients)| {
            let same = later == first;
            *clients += if same { *more } else { 0 };
            same
        });
        if all.len() <= LINES {
            break;
        }
        for ((lower, upper, ..), _) in &mut all {
            *lower = outward(f64::from_bits(*lower), per_second, -1.0).max(0.0).to_bits();
            *upper = outward(f64::from_bits(*upper), per_second, 1.0).to_bits();
        }
        per_second /= 2.0;
    }
    let line = |((lower, upper, verdict, node), clients): ((u64, u64, Verdict, u32), u64)| Line {
        delay: Interval { lower: f64::from_bits(lower), upper: f64::from_bits(upper) },
        clients,
        verdict,
        node: nodes.get((node as usize).wrapping_sub(1)).cloned(),
    };
    all.into_iter().map(|one| line(one).to_string()).collect()
}

/// Rounds a time to so many parts of a second, up or down and never the other way, not by the last bit.
fn outward(time: f64, per_second: f64, direction: f64) -> f64 {
    let rounded = (time * per_second * direction).ceil() * direction;
    let inside = (rounded / per_second - time) * direction < 0.0;
    (rounded + if inside { direction } else { 0.0 }) / per_second
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written() {
        for line in ["0.3 0.350001 12 masqueraded node 7", "10 - 1 timed_out", "0 - 1 unfinished"] {
            assert_eq!(line.parse::<Line>().unwrap().to_string(), line);
        }
        for damaged in ["", "0.3 0.4 1", "a - 1 timed_out", "0 - x timed_out", "0 - 1 gone"] {
            assert!(damaged.parse::<Line>().is_err(), "{damaged}");
        }
    }

    #[test]
    fn many_brackets_are_few_lines_that_contain_them() {
        let client = |n: u32| {
            let lower = f64::from(n).sqrt() / 100.0;
            ClientResult { delay: Interval { lower, upper: lower + 0.05 }, ..ClientResult::default() }
        };
        let clients: Vec<ClientResult> = (0..300_000).map(client).collect();
        let lines: Vec<Line> = lines(&clients, &[]).iter().map(|line| line.parse().unwrap()).collect();
        assert!((50_000..=LINES).contains(&lines.len()), "{}", lines.len());
        assert_eq!(lines.iter().map(|line| line.clients).sum::<u64>(), 300_000);
        let mut read = lines.iter().flat_map(|line| std::iter::repeat_n(line.delay, line.clients as usize));
        for one in &clients {
            let Interval { lower, upper } = read.next().unwrap();
            assert!(lower <= one.delay.lower && one.delay.upper <= upper && upper - lower < 0.052, "{one:?}");
        }
    }
}
