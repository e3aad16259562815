"""Works out anew, with numpy and scipy, what `egw-probe report --output json` says of results. Prints what differs.

Usage: report_numpy.py THIS.jsonl OTHER.jsonl REPORT.json"""

import json
import sys

import numpy as np
from scipy import stats

ALPHA = 0.05
SLOWEST = (0.9, 0.95, 0.98, 0.99)


def brackets(path):
    """Lower and upper ends of a run's delays, and whether clients were not masqueraded."""
    lower, upper, failed = [], [], []
    for line in open(path, encoding="utf-8"):
        document = json.loads(line)
        ends = document["bracket"]
        failed.append(document["outcome"] != "masqueraded")
        if ends["upper_seconds"] is None:
            lower.append(10.0)
            upper.append(np.inf)
        else:
            lower.append(ends["lower_seconds"] or 0.0)
            upper.append(ends["upper_seconds"])
    return np.array(lower), np.array(upper), np.array(failed)


def of_sample(lower, upper, q):
    """numpy's quantile that is always one of the values, of either end."""
    return tuple(np.quantile(end, q, method="inverted_cdf") for end in (lower, upper))


def confidence(lower, upper, q, alpha):
    """The widest ranks that are each wrong with probability alpha / 2 at most."""
    n = len(lower)
    # Ranks r with P(X < r) <= alpha / 2, and P(X >= r) <= alpha / 2.
    ranks = np.arange(1, n + 1)
    low = ranks[stats.binom.cdf(ranks - 1, n, q) <= alpha / 2]
    high = ranks[stats.binom.sf(ranks - 1, n, q) <= alpha / 2]
    return (
        np.sort(lower)[low[-1] - 1] if len(low) else 0.0,
        np.sort(upper)[high[0] - 1] if len(high) else np.inf,
    )


def told(bounds):
    ends = [bounds["lower_seconds"], bounds["upper_seconds"]]
    return (-np.inf if ends[0] is None else ends[0], np.inf if ends[1] is None else ends[1])


def difference(a, b):
    return (a[0] - b[1], a[1] - b[0])


wrong = []


def same(what, ours, theirs):
    # An end that is written as unknown is unbounded.
    theirs = [end if np.isfinite(end) else side for end, side in zip(theirs, (-np.inf, np.inf))]
    if not np.allclose(ours, theirs, rtol=0, atol=1e-9):
        wrong.append(f"{what}: {ours} is not {theirs}")


def positions(lower, upper):
    """By upper ends, and by lower ends where there is none: the share that is earlier, ties counting half."""
    ended = np.isfinite(upper)
    begin, end = np.where(ended, np.nextafter(upper, -np.inf), lower), upper
    earlier = np.searchsorted(np.sort(end), begin, side="right")
    not_later = np.searchsorted(np.sort(begin), end, side="left")
    return (earlier + not_later) / (2 * len(lower))


def permuted(scores, first, shuffles, rng):
    """p-values of the largest standardized difference of means, of each group of scores."""
    mean = scores.mean(axis=0)
    spread = np.sqrt(mean * (1 - mean))
    scale = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 0)

    def differences(order):
        this, other = scores[order[:first]], scores[order[first:]]
        apart = np.abs(this.mean(axis=0) - other.mean(axis=0)) * scale
        return np.array([apart[0], apart[1:].max()])

    found = differences(np.arange(len(scores))) - 1e-9
    far = sum(differences(rng.permutation(len(scores))) >= found for _ in range(shuffles))
    return (far + 1) / (shuffles + 1)


def main(this_path, other_path, report_path):
    report = json.load(open(report_path, encoding="utf-8"))
    this, other = brackets(this_path), brackets(other_path)
    for run, (lower, upper, _) in (("run", this), ("compared_with", other)):
        for quantile in report[run]["delay"]["quantiles"]:
            q = int(quantile["name"][1:]) / 100
            name = f"{run} {quantile['name']}"
            same(f"{name} of this run", told(quantile["of_this_run"]), of_sample(lower, upper, q))
            same(f"{name} confidence", told(quantile["confidence"]), confidence(lower, upper, q, ALPHA))
    comparison = report["comparison"]
    for one in comparison["quantiles"]:
        q = int(one["name"][1:]) / 100
        with_alpha = lambda alpha: difference(*(confidence(*run[:2], q, alpha) for run in (this, other)))
        same(f"difference of {one['name']}", told(one["of_these_runs"]), difference(*(of_sample(*run[:2], q) for run in (this, other))))
        same(f"its confidence {one['name']}", told(one["confidence"]), with_alpha(ALPHA / 2))
        same(f"one side of it {one['name']}", told(one["one_sided"]), with_alpha(ALPHA))
    tests = {test["of"]: test["p_value"] for test in comparison["tests"]}
    table = [[run[2].sum(), (~run[2]).sum()] for run in (this, other)]
    fisher = stats.fisher_exact(table)[1]
    if not np.isclose(tests["failures"], fisher, rtol=1e-6):
        wrong.append(f"failures: p {tests['failures']} is not {fisher}")
    where = positions(*(np.concatenate(ends) for ends in zip(this[:2], other[:2])))
    n, m = len(this[0]), len(other[0])
    later = 2 * (where[:n].mean() - where[n:].mean())
    if abs(comparison["later"] - later) > 1e-9:
        wrong.append(f"later: {comparison['later']} is not {later}")
    ended = all(np.isfinite(run[1]).all() for run in (this, other))
    if ended:
        u = stats.mannwhitneyu(this[1], other[1], method="asymptotic", use_continuity=False)
        if abs(later - (2 * u.statistic / (n * m) - 1)) > 1e-9:
            wrong.append(f"later: {later} is not that of U {u.statistic}")
    shuffles = 4_000 if n + m < 5_000 else 200
    scores = np.column_stack([where] + [where > share for share in SLOWEST]).astype(float)
    p_values = permuted(scores, n, shuffles, np.random.default_rng(1))
    for name, p in zip(("delays", "tail"), p_values):
        noise = 4.5 * np.sqrt(p * (1 - p) * (1 / shuffles + 1 / comparison["shuffles"])) + 2 / shuffles
        if abs(tests[name] - p) > noise:
            wrong.append(f"{name}: p {tests[name]} is not {p} within {noise}")
    gate = report["gates"][0]
    limit = gate["limit"]
    hits = int((this[1] <= limit).sum())
    share = stats.beta.ppf(ALPHA, hits, n - hits + 1) if hits else 0.0
    said = f"met by {hits} of {n} client{'s' if n != 1 else ''} for certain, and by at least {np.floor(share * 1000 + 1e-9) / 10:.1f} %"
    if said not in gate["found"].replace(",", "").replace("certain and", "certain, and"):
        wrong.append(f"{gate['found']!r} does not say {said!r}")


main(*sys.argv[1:])
print("\n".join(wrong))
sys.exit(bool(wrong))
