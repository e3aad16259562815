//! The normal distribution and Student's, as far as intervals need them. Pure.

/// The share of a normal distribution up to `z` (the complementary error function of Numerical Recipes, 6.2: 7 digits).
pub(crate) fn share(z: f64) -> f64 {
    const C: [f64; 10] = [
        -1.265_512_23,
        1.000_023_68,
        0.374_091_96,
        0.096_784_18,
        -0.186_288_06,
        0.278_868_07,
        -1.135_203_98,
        1.488_515_87,
        -0.822_152_23,
        0.170_872_77,
    ];
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * x);
    let tail = 0.5 * t * (C.iter().rev().fold(0.0, |sum, c| sum * t + c) - x * x).exp();
    if z < 0.0 { tail } else { 1.0 - tail }
}

/// What a share `p` of a normal distribution does not exceed.
pub(crate) fn quantile(p: f64) -> f64 {
    let (mut low, mut high) = (-9.0, 9.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if share(middle) < p { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

/// The same of Student's distribution with so many degrees of freedom (Abramowitz and Stegun, 26.7.5).
pub(crate) fn student(p: f64, freedom: f64) -> f64 {
    let z = quantile(p);
    let [z3, z5, z7] = [3, 5, 7].map(|power| z.powi(power));
    z + (z3 + z) / (4.0 * freedom)
        + (5.0 * z5 + 16.0 * z3 + 3.0 * z) / (96.0 * freedom.powi(2))
        + (3.0 * z7 + 19.0 * z5 + 17.0 * z3 - 15.0 * z) / (384.0 * freedom.powi(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (ours, table) in [
            (quantile(0.975), 1.959_964),
            (quantile(0.01), -2.326_348),
            (student(0.975, 9.0), 2.262_157),
            (student(0.975, 19.0), 2.093_024),
        ] {
            assert!((ours - table).abs() < 3e-4, "{ours} is not {table}");
        }
    }
}
