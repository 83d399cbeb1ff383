"""Intervals and tests of scores: against scipy and closed forms, and that they hold what they promise."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dynfocus.eval.statistics import bootstrap_accuracy, mcnemar, paired_bootstrap, sign_flip_test, standard_error

RUNS = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5)), min_size=1, max_size=40)


def questions(seed, videos=30, largest=6, agreement=1.0):
    """Answers of two runs, and videos whose questions are right together: each video has a difficulty of its own."""
    rng = np.random.default_rng(seed)
    clusters, a, b = [], [], []
    for video in range(videos):
        level = rng.beta(agreement, agreement)
        for _ in range(rng.integers(1, largest + 1)):
            clusters.append(f"video{video}")
            a.append(bool(rng.random() < level))
            b.append(bool(rng.random() < 0.5 * level + 0.4))
    return a, b, clusters


def by_video(clusters, *runs):
    """Sums of each run and numbers of questions, by video."""
    names = sorted(set(clusters))
    rows = [[index for index, one in enumerate(clusters) if one == name] for name in names]
    return [
        np.array([sum(run[index] for index in row) for row in rows], float) for run in (*runs, [1] * len(clusters))
    ]


# The bootstrap


@pytest.mark.parametrize("method", ["percentile", "bca"])
@pytest.mark.parametrize("seed", range(3))
def test_interval_agrees_with_scipy(seed, method):
    correct, _, clusters = questions(seed)
    right, asked = by_video(clusters, correct)
    theirs = stats.bootstrap(
        (right, asked),
        lambda r, n, axis: r.sum(axis) / n.sum(axis),
        paired=True,
        n_resamples=20_000,
        method=method,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    ours = bootstrap_accuracy(correct, clusters, resamples=20_000, seed=seed, method=method)
    assert ours.estimate == np.mean(correct)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.006)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_interval_of_a_difference_agrees_with_scipy(method):
    a, b, clusters = questions(5)
    right_a, right_b, asked = by_video(clusters, a, b)
    theirs = stats.bootstrap(
        (right_a, right_b, asked),
        lambda first, second, n, axis: (second - first).sum(axis) / n.sum(axis),
        paired=True,
        n_resamples=20_000,
        method=method,
        rng=np.random.default_rng(1),
    ).confidence_interval
    ours = paired_bootstrap(a, b, clusters, resamples=20_000, method=method)
    assert ours.estimate == pytest.approx(np.mean(b) - np.mean(a))
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.006)


def test_width_agrees_with_the_closed_form():
    correct, _, clusters = questions(2, videos=400)
    interval = bootstrap_accuracy(correct, clusters, method="percentile")
    expected = 2 * 1.96 * standard_error(correct, clusters)
    assert interval.high - interval.low == pytest.approx(expected, rel=0.04)


def test_standard_error_is_that_of_a_regression_on_a_constant_with_clusters():
    correct, _, clusters = questions(3)
    residuals = np.array(correct) - np.mean(correct)
    meat = sum(
        sum(e for e, one in zip(residuals, clusters, strict=True) if one == name) ** 2 for name in set(clusters)
    )
    videos, bread = len(set(clusters)), 1 / len(correct)
    # The sandwich of Liang and Zeger, with the correction of Stata and statsmodels, for one regressor.
    correction = videos / (videos - 1) * (len(correct) - 1) / (len(correct) - 1)
    assert standard_error(correct, clusters) == pytest.approx(math.sqrt(correction * bread * meat * bread))
    assert math.isnan(standard_error([True, False], ["v", "v"]))


def test_standard_error_agrees_with_statsmodels():
    statsmodels = pytest.importorskip("statsmodels.api")
    correct, _, clusters = questions(3)
    codes = np.unique(clusters, return_inverse=True)[1]
    model = statsmodels.OLS(np.array(correct, float), np.ones(len(correct)))
    fitted = model.fit(cov_type="cluster", cov_kwds={"groups": codes})
    assert standard_error(correct, clusters) == pytest.approx(fitted.bse[0])


def test_a_question_a_video_is_the_usual_standard_error():
    correct = [True] * 30 + [False] * 20
    assert standard_error(correct, range(50)) == pytest.approx(stats.sem(correct))


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Of videos whose questions are nearly all right or all wrong; without clusters the interval is too short."""
    clustered, independent, runs = 0, 0, 200
    for seed in range(runs):
        correct, _, clusters = questions(seed, videos=40, agreement=0.3)
        interval = bootstrap_accuracy(correct, clusters, resamples=800, seed=seed)
        clustered += interval.low <= 0.5 <= interval.high
        interval = bootstrap_accuracy(correct, range(len(correct)), resamples=800, seed=seed)
        independent += interval.low <= 0.5 <= interval.high
    assert clustered / runs == pytest.approx(0.95, abs=0.045)
    assert independent / runs < 0.85


def test_intervals_of_a_difference_cover_the_truth():
    covered, runs = 0, 200
    for seed in range(runs):
        a, b, clusters = questions(seed, videos=40)
        interval = paired_bootstrap(a, b, clusters, resamples=800, seed=seed)
        covered += interval.low <= 0.65 - 0.5 <= interval.high
    assert covered / runs == pytest.approx(0.95, abs=0.045)


def test_groups_make_it_the_mean_of_their_accuracies():
    correct, _, clusters = questions(4, videos=60)
    tasks = ["count" if index % 5 else "order" for index in range(len(correct))]
    interval = bootstrap_accuracy(correct, clusters, tasks)
    shares = [np.mean([c for c, t in zip(correct, tasks, strict=True) if t == task]) for task in ("count", "order")]
    assert interval.estimate == pytest.approx(np.mean(shares))
    plain = bootstrap_accuracy(correct, clusters)
    # Few questions of one kind weigh as much as the many of the other.
    assert interval.high - interval.low > plain.high - plain.low
    assert bootstrap_accuracy(correct, clusters, ["one"] * len(correct)) == plain


@settings(max_examples=30, deadline=None)
@given(RUNS, st.integers(0, 99))
def test_order_is_no_matter(rows, seed):
    def interval(rows):
        a, b, clusters = zip(*rows, strict=True)
        return bootstrap_accuracy(a, clusters, resamples=50), paired_bootstrap(a, b, clusters, resamples=50)

    order = np.random.default_rng(seed).permutation(len(rows))
    assert interval(rows) == interval([rows[index] for index in order])


@settings(max_examples=30, deadline=None)
@given(RUNS)
def test_bounds_enclose_a_share_and_swap_with_the_runs(rows):
    a, b, clusters = zip(*rows, strict=True)
    one = bootstrap_accuracy(a, clusters, resamples=99, method="percentile")
    assert 0 <= one.low <= one.high <= 1
    forth = paired_bootstrap(a, b, clusters, resamples=99, method="percentile")
    back = paired_bootstrap(b, a, clusters, resamples=99, method="percentile")
    assert (forth.estimate, forth.low, forth.high) == pytest.approx((-back.estimate, -back.high, -back.low))


def test_a_seed_repeats_and_another_one_does_not():
    correct, _, clusters = questions(0)
    first = bootstrap_accuracy(correct, clusters, resamples=500, seed=1)
    assert first == bootstrap_accuracy(correct, clusters, resamples=500, seed=1)
    assert first != bootstrap_accuracy(correct, clusters, resamples=500, seed=2)


def test_draws_in_chunks_are_the_same_draws(monkeypatch):
    correct, _, clusters = questions(0)
    whole = bootstrap_accuracy(correct, clusters, resamples=500)
    monkeypatch.setattr("dynfocus.eval.statistics._CHUNK", 100)
    assert bootstrap_accuracy(correct, clusters, resamples=500) == whole


@pytest.mark.parametrize("videos", [2, 8, 100])
def test_nothing_is_certain_where_all_videos_agree(videos):
    clusters = [f"v{index % videos}" for index in range(3 * videos)]
    exact = stats.binomtest(videos, videos).proportion_ci(0.95, method="exact")
    right = bootstrap_accuracy([True] * len(clusters), clusters)
    assert (right.low, right.high) == pytest.approx((exact.low, 1))
    wrong = bootstrap_accuracy([False] * len(clusters), clusters)
    assert (wrong.low, wrong.high) == pytest.approx((0, 1 - exact.low))
    same = paired_bootstrap([True] * len(clusters), [True] * len(clusters), clusters)
    assert (same.low, same.high) == pytest.approx((exact.low - 1, 1 - exact.low))


def test_a_mean_of_tasks_is_no_surer_than_the_task_with_the_fewest_videos():
    clusters, tasks = range(101), ["rare"] + ["frequent"] * 100
    wrong = bootstrap_accuracy([False] * 101, clusters, tasks)
    # A rare task that is right nine times out of ten is all wrong in one video with a probability of a tenth.
    assert wrong.low == 0 and wrong.high > 0.9 / 2
    even = bootstrap_accuracy([False] * 100, range(100), ["one", "other"] * 50)
    assert even == bootstrap_accuracy([False] * 100, range(100))


def test_one_video_says_nothing_of_others():
    interval = bootstrap_accuracy([True, True, False], ["v"] * 3)
    assert (interval.low, interval.high) == (0, 1) and interval.estimate == pytest.approx(2 / 3)
    assert paired_bootstrap([True, False], [True, True], ["v", "v"]).low == -1


# Tests of two runs


@settings(max_examples=30, deadline=None)
@given(RUNS)
def test_mcnemar_is_the_binomial_test_of_the_discordant_questions(rows):
    a, b, _ = zip(*rows, strict=True)
    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    discordant = sum(x != y for x, y in zip(a, b, strict=True))
    expected = stats.binomtest(only_a, discordant).pvalue if discordant else 1.0
    assert mcnemar(a, b) == pytest.approx(expected)
    if discordant:
        counts = np.arange(discordant + 1)
        shares = stats.binom.pmf(counts, discordant, 0.5)
        distance, seen = abs(2 * counts - discordant), abs(2 * only_a - discordant)
        expected = shares[distance > seen].sum() + shares[distance == seen].sum() / 2
    assert mcnemar(a, b, mid_p=True) == pytest.approx(expected)
    assert mcnemar(a, b) == mcnemar(b, a)


def test_mcnemar_takes_many_questions():
    a, b = [True] * 1600 + [False] * 1400, [False] * 1600 + [True] * 1400
    assert mcnemar(a, b) == pytest.approx(stats.binomtest(1400, 3000).pvalue)


def test_sign_flip_is_mcnemar_where_a_video_has_one_question():
    a = [True] * 9 + [False] * 2 + [True] * 5
    b = [False] * 9 + [True] * 2 + [True] * 5
    assert sign_flip_test(a, b, range(16)) == pytest.approx(mcnemar(a, b))


def test_sign_flip_agrees_with_scipy_for_many_videos():
    a, b, clusters = questions(8, videos=40)
    right_a, right_b, _ = by_video(clusters, a, b)
    theirs = stats.permutation_test(
        (right_b - right_a,),
        lambda gains, axis: abs(gains.sum(axis)),
        permutation_type="samples",
        n_resamples=20_000,
        alternative="greater",
        rng=np.random.default_rng(0),
    ).pvalue
    assert sign_flip_test(a, b, clusters, resamples=20_000) == pytest.approx(theirs, abs=0.012)


def test_sign_flip_takes_a_video_as_one_observation():
    """One video on which a run wins 30 questions is no evidence about others; McNemar takes it for much."""
    a, b, clusters = [True] * 30 + [True] * 9, [False] * 30 + [True] * 9, ["v"] * 30 + list("abcdefghi")
    assert sign_flip_test(a, b, clusters) == 1.0
    assert mcnemar(a, b) < 1e-8


def test_equal_runs_do_not_differ():
    a, _, clusters = questions(0)
    assert mcnemar(a, a) == mcnemar(a, a, mid_p=True) == sign_flip_test(a, a, clusters) == 1.0


# Mistakes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_accuracy([], []), "correct is empty"),
        (lambda: bootstrap_accuracy([True, None], ["a", "b"]), r"correct\[1\] is None"),
        (lambda: bootstrap_accuracy([1], ["a"]), r"correct\[0\] is 1"),
        (lambda: bootstrap_accuracy([True], ["a", "b"]), "run 1 has 1, clusters has 2"),
        (lambda: bootstrap_accuracy([True], ["a"], ["x", "y"]), "groups has 2"),
        (lambda: bootstrap_accuracy([True], ["a"], confidence=95), "confidence is 95"),
        (lambda: bootstrap_accuracy([True], ["a"], resamples=0), "resamples is 0"),
        (lambda: bootstrap_accuracy([True], ["a"], method="basic"), "method is 'basic'"),
        (lambda: paired_bootstrap([True], [True, False], ["a"]), "run 1 has 1, run 2 has 2"),
        (lambda: mcnemar([True], [True, False]), "a has 1, b has 2"),
        (lambda: sign_flip_test([True], [True], ["a"], resamples=0), "resamples is 0"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
