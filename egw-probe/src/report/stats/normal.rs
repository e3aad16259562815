//! The normal distribution and Student's, as far as intervals need them. Pure.

use statrs::distribution::{ContinuousCDF as _, Normal, StudentsT};

/// The share of a normal distribution below `z` standard deviations.
pub(crate) fn share(z: f64) -> f64 {
    Normal::standard().cdf(z)
}

/// What a share `p` of a normal distribution lies below, in standard deviations.
pub(crate) fn quantile(p: f64) -> f64 {
    Normal::standard().inverse_cdf(p)
}

/// The same of Student's distribution with so many degrees of freedom, one or more.
pub(crate) fn student(p: f64, freedom: f64) -> f64 {
    StudentsT::new(0.0, 1.0, freedom).map_or(f64::INFINITY, |student| student.inverse_cdf(p))
}
