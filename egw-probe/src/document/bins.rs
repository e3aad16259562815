//! Series in bounded memory: when time outgrows the bins, each two become one.

/// The bins joined two by two; an odd one at the end stays as it is.
pub(crate) fn joined<T: Copy>(bins: &[T], join: impl Fn(T, T) -> T) -> Vec<T> {
    let pair = |pair: &[T]| match pair {
        [earlier, later] => join(*earlier, *later),
        other => other[0],
    };
    bins.chunks(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_become_one_and_an_odd_one_stays() {
        assert_eq!(joined(&[1, 2, 3, 4, 5], |one, other| one + other), [3, 7, 5]);
        assert_eq!(joined(&[0; 0], |one: i32, other| one + other), [0; 0]);
    }
}
