//! All brackets of a run in few lines, so that a report of it can be compared with: what `--output json` keeps of clients. Pure.
//!
//! A line is `LOWER UPPER CLIENTS OUTCOME [NODE]`, seconds, with `-` for an upper end that there is none of.

use crate::report::data::client::{ClientResult, Verdict};
use crate::report::data::interval::Interval;

/// Lines of one run at most; of more, ends are rounded outward until there are no more.
const LINES: usize = 20_000;
/// Ends are rounded outward to this at least.
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

/// Everybody's brackets, in order; nodes by these names.
pub(crate) fn lines(clients: &[ClientResult], nodes: &[String]) -> Vec<String> {
    // Ends in units, the upper one missing where there is none.
    let bracket = |one: &ClientResult| {
        let upper = one.delay.upper.is_finite().then(|| (one.delay.upper * PER_SECOND).ceil() as u64);
        ((one.delay.lower.max(0.0) * PER_SECOND).floor() as u64, upper, one.verdict, one.node)
    };
    let mut all: Vec<_> = clients.iter().map(|one| (bracket(one), 1_u64)).collect();
    let mut unit = 1;
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
        unit *= 2;
        for ((lower, upper, ..), _) in &mut all {
            *lower = *lower / unit * unit;
            *upper = upper.map(|upper| upper.div_ceil(unit) * unit);
        }
    }
    let seconds = |units: u64| units as f64 / PER_SECOND;
    let line = |((lower, upper, verdict, node), clients): ((u64, Option<u64>, Verdict, u32), u64)| Line {
        delay: Interval { lower: seconds(lower), upper: upper.map_or(f64::INFINITY, seconds) },
        clients,
        verdict,
        node: nodes.get((node as usize).wrapping_sub(1)).cloned(),
    };
    all.into_iter().map(|one| line(one).to_string()).collect()
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
        let clients: Vec<ClientResult> = (0..50_000).map(client).collect();
        let lines: Vec<Line> = lines(&clients, &[]).iter().map(|line| line.parse().unwrap()).collect();
        assert!((5_000..=LINES).contains(&lines.len()), "{}", lines.len());
        assert_eq!(lines.iter().map(|line| line.clients).sum::<u64>(), 50_000);
        let mut read = lines.iter().flat_map(|line| std::iter::repeat_n(line.delay, line.clients as usize));
        for one in &clients {
            let Interval { lower, upper } = read.next().unwrap();
            assert!(lower <= one.delay.lower && one.delay.upper <= upper && upper - lower < 0.052, "{one:?}");
        }
    }
}
