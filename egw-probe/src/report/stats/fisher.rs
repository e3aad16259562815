//! Whether one of two runs has more of something than chance makes: Fisher's exact test (Statistical Methods for Research Workers,
//! 21.02), two-sided by adding up everything that is not likelier than what was found, as R and SciPy do. Pure.

/// How often chance alone divides `hits[0] + hits[1]` hits as unequally among so many clients of two runs.
pub(crate) fn p_value(hits: [u64; 2], clients: [u64; 2]) -> f64 {
    let all = hits[0] + hits[1];
    let (least, most) = (all.saturating_sub(clients[1]), all.min(clients[0]));
    if least == most {
        return 1.0;
    }
    // Of `x` hits in the first run, built from the likeliest outward so that nothing overflows.
    let [n, m, k] = [clients[0], clients[1], all].map(|count| count as f64);
    let ratio = |x: f64| (n - x) * (k - x) / ((x + 1.0) * (m - k + x + 1.0));
    let mode = (((k + 1.0) * (n + 1.0) / (n + m + 2.0)).floor() as u64).clamp(least, most);
    let mut weights = vec![0.0; (most - least + 1) as usize];
    let place = |x: u64| (x - least) as usize;
    weights[place(mode)] = 1.0;
    for x in mode..most {
        weights[place(x + 1)] = weights[place(x)] * ratio(x as f64);
    }
    for x in (least..mode).rev() {
        weights[place(x)] = weights[place(x + 1)] / ratio(x as f64);
    }
    let found = weights[place(hits[0])] * (1.0 + 1e-7);
    let total: f64 = weights.iter().sum();
    weights.iter().filter(|weight| **weight <= found).sum::<f64>() / total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p_values_are_those_of_r() {
        // fisher.test(matrix(c(x, n - x, y, m - y), 2))$p.value
        for (hits, clients, p) in [
            ([3, 1], [4, 4], 0.485_714_285_7),
            ([0, 8], [200, 200], 0.007_274_56),
            ([0, 0], [9, 9], 1.0),
            ([10, 0], [10, 10], 1.082_508_8e-5),
        ] {
            let ours = p_value(hits, clients);
            assert!((ours / p - 1.0).abs() < 1e-4, "{hits:?} of {clients:?}: {ours} is not {p}");
        }
    }
}
