//! Whether the target's SYN-ACKs find their way back: judged from half-open attempts and connections. Pure.

use std::time::Duration;

use crate::document::verdict::Verdict;
use crate::observer::correlate::HalfOpen;
use crate::sys::clock::Monotonic;

/// What to say of a class of sources whose attempts stay half open; docs/troubleshooting.md has it too.
pub(super) const BROKEN: &str = "attempts stay half open: SYNs arrive, and no connection follows; the way back to these \
    sources is broken, or they give up first (--probe-timeout), or somebody forges them";
/// What to look at next.
pub(super) const NEXT: &str = "`ip route get` with the source's address on the target's host, whether that address is routed there \
    at all (a Pod's own mostly is not), reverse-path filters and firewalls on the way back";

/// Fewer half-open attempts in a period are chance.
const MANY: u64 = 20;
/// What is judged at a time.
const PERIOD: Duration = Duration::from_secs(5);

/// Judges both classes of sources, each by itself.
#[derive(Debug, Default)]
pub(super) struct WayBack {
    classes: [Class; 2],
    began: Option<Monotonic>,
}

#[derive(Debug, Default)]
struct Class {
    half_open: u64,
    joined: u64,
    told: bool,
}

impl WayBack {
    /// A connection of this class has come to stand.
    pub(super) fn joined(&mut self, class: Verdict) {
        self.class(class).joined += 1;
    }

    /// Takes in the attempts given up on since the last call, and whether the join is in doubt: connections that were not
    /// joined leave half-open attempts too. At the end of a period: the classes, with their half-open attempts in it, that are
    /// to be told of now. Each is told once, until a period shows that its way is whole again.
    pub(super) fn half_open(&mut self, more: HalfOpen, doubt: bool, now: Monotonic) -> Vec<(Verdict, u64)> {
        self.class(Verdict::Allowed).half_open += more.allowed;
        self.class(Verdict::Denied).half_open += more.denied;
        let began = *self.began.get_or_insert(now);
        if doubt {
            self.begin(now);
            return Vec::new();
        }
        if now.since(began) < PERIOD {
            return Vec::new();
        }
        let broken = Verdict::ALL.into_iter().filter_map(|verdict| {
            let class = self.class(verdict);
            let broken = class.half_open >= MANY && class.half_open > class.joined;
            let whole = class.half_open == 0 && class.joined > 0;
            let news = broken && !class.told;
            class.told = broken || (class.told && !whole);
            news.then_some((verdict, class.half_open))
        });
        let broken = broken.collect();
        self.begin(now);
        broken
    }

    fn begin(&mut self, now: Monotonic) {
        self.began = Some(now);
        for class in &mut self.classes {
            (class.half_open, class.joined) = (0, 0);
        }
    }

    fn class(&mut self, verdict: Verdict) -> &mut Class {
        &mut self.classes[verdict as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Periods of so many half-open attempts and connections of denied sources: what is told of each.
    fn told(periods: &[(u64, u64)]) -> Vec<Option<u64>> {
        let mut way = WayBack::default();
        let at = |period: usize| Monotonic::from_ns(period as u64 * 5_000_000_000);
        way.half_open(HalfOpen::default(), false, at(0));
        let one = |(period, &(denied, joined)): (usize, &(u64, u64))| {
            (0..joined).for_each(|_| way.joined(Verdict::Denied));
            let told = way.half_open(HalfOpen { allowed: 0, denied }, false, at(period + 1));
            told.first().map(|(verdict, count)| {
                assert_eq!((*verdict, told.len()), (Verdict::Denied, 1));
                *count
            })
        };
        periods.iter().enumerate().map(one).collect()
    }

    #[test]
    fn a_way_back_that_is_broken_is_told_once_until_it_is_whole_again() {
        assert_eq!(told(&[(20, 0), (90, 0), (0, 0), (50, 0)]), [Some(20), None, None, None]);
        assert_eq!(told(&[(20, 0), (0, 5), (30, 0)]), [Some(20), None, Some(30)]);
    }

    #[test]
    fn a_few_attempts_or_fewer_than_connections_are_no_broken_way() {
        assert_eq!(told(&[(19, 0), (19, 3), (40, 40), (0, 500)]), [None; 4]);
    }

    #[test]
    fn one_class_is_broken_while_the_other_works_and_a_join_in_doubt_says_nothing() {
        let at = |ms: u64| Monotonic::from_ns(ms * 1_000_000);
        let mut way = WayBack::default();
        way.half_open(HalfOpen::default(), false, at(0));
        let both = HalfOpen { allowed: 40, denied: 40 };
        assert_eq!(way.half_open(both, true, at(5_000)), []);
        (0..1_000).for_each(|_| way.joined(Verdict::Allowed));
        assert_eq!(way.half_open(both, false, at(9_999)), [], "a period begins anew");
        assert_eq!(way.half_open(both, false, at(10_000)), [(Verdict::Denied, 80)]);
    }

    #[test]
    fn the_troubleshooting_page_has_the_sentence() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/troubleshooting.md");
        let page = std::fs::read_to_string(page).unwrap();
        let row = format!("| target's log: {BROKEN} | {NEXT} |");
        assert!(page.lines().any(|line| line == row), "{row}");
    }
}
