//! How connections and latency went over time: a bounded number of points, each twice as wide whenever they run out.

use std::time::Duration;

use crate::document::bins::joined;
use crate::document::stress::Point;

/// Most points: enough for a plot, and some kilobytes.
const CAP: usize = 600;
/// Width of a point at first.
const FINEST: Duration = Duration::from_millis(10);

/// What can happen.
#[derive(Debug, Clone, Copy)]
pub enum Event {
    /// A dial succeeded and took this long.
    Opened(Duration),
    /// A connection closed by itself.
    Closed,
    /// A dial failed.
    Failed,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    open: u64,
    opened: u64,
    closed: u64,
    failed: u64,
    latency_sum: Duration,
    latency_max: Duration,
}

impl Bucket {
    fn then(self, later: Self) -> Self {
        Self {
            open: later.open,
            opened: self.opened + later.opened,
            closed: self.closed + later.closed,
            failed: self.failed + later.failed,
            latency_sum: self.latency_sum + later.latency_sum,
            latency_max: self.latency_max.max(later.latency_max),
        }
    }
}

/// The series while it grows.
#[derive(Debug)]
pub struct Series {
    width: Duration,
    buckets: Vec<Bucket>,
}

impl Default for Series {
    fn default() -> Self {
        Self { width: FINEST, buckets: Vec::new() }
    }
}

impl Series {
    /// Takes in what happened at `at`, counted from the first dial. An instant before the last point counts there.
    pub fn note(&mut self, at: Duration, event: Event) {
        self.reach(at);
        let Some(bucket) = self.buckets.last_mut() else { return };
        match event {
            Event::Opened(latency) => {
                bucket.open += 1;
                bucket.opened += 1;
                bucket.latency_sum += latency;
                bucket.latency_max = bucket.latency_max.max(latency);
            }
            Event::Closed => {
                bucket.open = bucket.open.saturating_sub(1);
                bucket.closed += 1;
            }
            Event::Failed => bucket.failed += 1,
        }
    }

    /// Both together. What was noted in two series counts as if it had been noted in one.
    #[must_use]
    pub fn with(mut self, mut other: Self) -> Self {
        let width = self.width.max(other.width);
        let last = |series: &Self| series.width * (series.buckets.len().max(1) as u32 - 1);
        let end = last(&self).max(last(&other));
        for series in [&mut self, &mut other] {
            while series.width < width {
                series.widen();
            }
            series.reach(end);
        }
        for (bucket, more) in self.buckets.iter_mut().zip(other.buckets) {
            *bucket = Bucket { open: bucket.open + more.open, ..bucket.then(more) };
        }
        self
    }

    /// The points up to `end`.
    pub fn points(mut self, end: Duration) -> Vec<Point> {
        self.reach(end);
        let width = self.width.as_secs_f64();
        let point = |(number, bucket): (usize, &Bucket)| {
            let any = bucket.opened > 0;
            Point {
                from_seconds: number as f64 * width,
                open: bucket.open,
                opened: bucket.opened,
                closed: bucket.closed,
                failed: bucket.failed,
                latency_mean_seconds: any.then(|| bucket.latency_sum.as_secs_f64() / bucket.opened as f64),
                latency_max_seconds: any.then_some(bucket.latency_max.as_secs_f64()),
            }
        };
        self.buckets.iter().enumerate().map(point).collect()
    }

    /// Grows until the last point contains `at`.
    fn reach(&mut self, at: Duration) {
        let number = |width: Duration| (at.as_nanos() / width.as_nanos()) as usize;
        while number(self.width) >= CAP {
            self.widen();
        }
        let idle = Bucket { open: self.buckets.last().map_or(0, |last| last.open), ..Bucket::default() };
        let wanted = (number(self.width) + 1).max(self.buckets.len());
        self.buckets.resize(wanted, idle);
    }

    /// Joins the points two by two.
    fn widen(&mut self) {
        self.buckets = joined(&self.buckets, Bucket::then);
        self.width *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_say_what_is_open_and_how_long_dials_took() {
        let ms = Duration::from_millis;
        let mut series = Series::default();
        series.note(ms(1), Event::Opened(ms(2)));
        series.note(ms(5), Event::Opened(ms(4)));
        series.note(ms(31), Event::Closed);
        series.note(ms(32), Event::Failed);
        let points = series.points(ms(45));
        let shown: Vec<_> = points.iter().map(|p| (p.open, p.opened, p.closed, p.failed)).collect();
        assert_eq!(shown, [(2, 2, 0, 0), (2, 0, 0, 0), (2, 0, 0, 0), (1, 0, 1, 1), (1, 0, 0, 0)]);
        assert_eq!(points[0].latency_mean_seconds, Some(0.003));
        assert_eq!(points[0].latency_max_seconds, Some(0.004));
        assert_eq!(points[1].latency_mean_seconds, None);
        assert!((points[3].from_seconds - 0.03).abs() < 1e-9);
    }

    #[test]
    fn a_long_test_keeps_every_count_in_as_many_points() {
        let mut series = Series::default();
        for second in 0..100_000 {
            series.note(Duration::from_secs(second), Event::Opened(Duration::from_millis(second % 7)));
        }
        let points = series.points(Duration::from_secs(100_001));
        assert!(points.len() <= CAP && points.len() > CAP / 2, "{}", points.len());
        assert_eq!(points.iter().map(|point| point.opened).sum::<u64>(), 100_000);
        assert_eq!(points.last().unwrap().open, 100_000);
        assert_eq!(points[0].latency_max_seconds, Some(0.006));
        assert!(points.is_sorted_by(|a, b| a.from_seconds < b.from_seconds && a.open <= b.open));
    }

    #[test]
    fn two_series_of_different_width_add_up() {
        let (mut short, mut long) = (Series::default(), Series::default());
        short.note(Duration::from_millis(5), Event::Opened(Duration::from_millis(2)));
        long.note(Duration::from_millis(5), Event::Opened(Duration::from_millis(4)));
        long.note(Duration::from_secs(20), Event::Closed);
        for (first, second) in [(0, 1), (1, 0)] {
            let both =
                [&short, &long].map(|series| Series { width: series.width, buckets: series.buckets.clone() });
            let [a, b] = both;
            let mut both = [Some(a), Some(b)];
            let joined = both[first].take().unwrap().with(both[second].take().unwrap());
            let points = joined.points(Duration::from_secs(20));
            assert_eq!((points[0].open, points[0].opened), (2, 2));
            assert_eq!(points[0].latency_mean_seconds, Some(0.003));
            let last = points.last().unwrap();
            assert_eq!((last.open, last.closed), (1, 1));
        }
    }

    #[test]
    fn an_odd_point_is_not_counted_twice_when_points_are_joined() {
        let mut series = Series::default();
        series.note(Duration::ZERO, Event::Opened(Duration::ZERO));
        series.note(FINEST * CAP as u32, Event::Opened(Duration::ZERO));
        let points = series.points(FINEST * CAP as u32);
        assert_eq!(points.iter().map(|point| point.opened).sum::<u64>(), 2);
    }
}
