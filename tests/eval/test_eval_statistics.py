"""Intervals and tests of scores: against scipy and closed forms, and that they hold what they promise."""

from itertools import product
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dynfocus.eval.statistics import bootstrap_accuracy, paired_difference

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


def test_width_agrees_with_the_closed_form():
    correct, _, clusters = questions(2, videos=400)
    interval = bootstrap_accuracy(correct, clusters, method="percentile")
    right, asked = by_video(clusters, correct)
    residuals = right - asked * np.mean(correct)
    expected = 2 * 1.96 * sqrt(400 / 399 * (residuals**2).sum()) / len(correct)
    assert interval.high - interval.low == pytest.approx(expected, rel=0.04)


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
        return bootstrap_accuracy(a, clusters, resamples=50), paired_difference(a, b, clusters)

    order = np.random.default_rng(seed).permutation(len(rows))
    assert interval(rows) == interval([rows[index] for index in order])


@settings(max_examples=30, deadline=None)
@given(RUNS)
def test_bounds_enclose_a_share(rows):
    a, _, clusters = zip(*rows, strict=True)
    one = bootstrap_accuracy(a, clusters, resamples=99, method="percentile")
    assert 0 <= one.low <= one.high <= 1


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
    # The same share in every video.
    even = bootstrap_accuracy([index < 2 * videos for index in range(len(clusters))], clusters)
    unseen = 1 - exact.low
    assert (even.low, even.high) == pytest.approx((max(0, 2 / 3 - unseen), min(1, 2 / 3 + unseen)))


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
    paired = paired_difference([True, False], [True, True], ["v", "v"])
    assert (paired.estimate, paired.low, paired.high, paired.p_value) == (0.5, -1, 1, 1)


# The difference of two runs


def pair(only_a, only_b, alike=0):
    """Answers of two runs, a question a video."""
    a, b = [True] * only_a + [False] * only_b, [False] * only_a + [True] * only_b
    return a + [True] * alike, b + [True] * alike, range(only_a + only_b + alike)


@settings(max_examples=60, deadline=None)
@given(RUNS, st.booleans())
def test_the_interval_excludes_zero_exactly_where_p_is_below_its_level(rows, grouped):
    a, b, clusters = zip(*rows, strict=True)
    tasks = [index % 3 for index in range(len(rows))] if grouped else None
    for confidence in (0.5, 0.8, 0.95):
        found = paired_difference(a, b, clusters, tasks, confidence=confidence)
        assert -1 <= found.low <= found.estimate <= found.high <= 1
        assert (found.low > 0 or found.high < 0) == (found.p_value < 1 - confidence)
        back = paired_difference(b, a, clusters, tasks, confidence=confidence)
        assert (back.estimate, back.low, back.high) == pytest.approx((-found.estimate, -found.high, -found.low))
        assert back.p_value == pytest.approx(found.p_value)


@pytest.mark.parametrize(("only_a", "only_b"), [(3, 0), (0, 5), (0, 6), (9, 2), (4, 4), (1, 0), (30, 12), (0, 40)])
def test_one_question_a_video_is_mcnemars_exact_test(only_a, only_b):
    found = paired_difference(*pair(only_a, only_b, alike=80))
    assert found.p_value == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue)
    assert found.estimate == (only_b - only_a) / (only_a + only_b + 80)
    assert (found.low > 0 or found.high < 0) == (found.p_value < 0.05)


def test_three_of_80_questions_are_no_evidence():
    found = paired_difference(*pair(3, 0, alike=77))
    assert found.p_value == 0.25 and found.estimate == -0.0375
    # Exact bounds of the two shares alone: up to 10.6 points lost, and at most 1 to 5 points gained.
    assert -0.13 < found.low < -0.08 and 0.005 < found.high < 0.05


def test_the_share_of_one_sided_videos_has_clopper_and_pearsons_bounds():
    """Where all videos differ, the difference is that share alone."""
    found = paired_difference(*pair(4, 16))
    exact = stats.binomtest(16, 20).proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == pytest.approx((2 * exact.low - 1, 2 * exact.high - 1), abs=1e-6)


@pytest.mark.parametrize("tasks", [False, True])
def test_p_is_that_of_all_ways_to_swap_the_runs_for_whole_videos(tasks):
    a, b, clusters = questions(8, videos=10)
    names = [index % 2 for index in range(len(a))] if tasks else None
    found = paired_difference(a, b, clusters, names)
    groups = np.array(names or [0] * len(a))
    weights = np.array([1 / (groups == group).sum() / len(set(groups)) for group in groups])
    gains = np.array(
        [
            sum((np.array(b, float) - a)[np.array(clusters) == v] * weights[np.array(clusters) == v])
            for v in sorted(set(clusters))
        ]
    )
    assert found.estimate == pytest.approx(gains.sum())
    swapped = [abs(np.dot(signs, gains)) >= abs(gains.sum()) - 1e-12 for signs in product((-1, 1), repeat=len(gains))]
    # Videos' gains in two tasks of unequal size are rounded a little.
    assert found.p_value == pytest.approx(np.mean(swapped), abs=0.01 if tasks else 1e-9)


def test_a_video_is_one_observation():
    """One video on which a run wins 30 questions is no evidence about others."""
    a, b, clusters = [True] * 30 + [True] * 9, [False] * 30 + [True] * 9, ["v"] * 30 + list("abcdefghi")
    found = paired_difference(a, b, clusters)
    assert found.p_value == 1 and found.low < 0 < found.high
    assert paired_difference(a, b, range(39)).high < 0


def test_equal_runs_do_not_differ():
    a, _, clusters = questions(0)
    found = paired_difference(a, a, clusters)
    assert (found.estimate, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_answers_that_cancel_out_within_each_video_are_no_certainty():
    found = paired_difference([True, False] * 10, [False, True] * 10, [index // 2 for index in range(20)])
    assert found.estimate == 0 and found.p_value == 1 and found.low < -0.1 and found.high > 0.1


def test_groups_make_it_the_difference_of_the_means_of_their_accuracies():
    a, b, clusters = questions(4, videos=60)
    tasks = ["count" if index % 5 else "order" for index in range(len(a))]
    found = paired_difference(a, b, clusters, tasks)
    one, other = (bootstrap_accuracy(run, clusters, tasks, resamples=1).estimate for run in (a, b))
    assert found.estimate == pytest.approx(other - one)
    plain = paired_difference(a, b, clusters)
    assert found.high - found.low > plain.high - plain.low
    assert paired_difference(a, b, clusters, ["one"] * len(a)) == plain


def test_intervals_of_a_difference_cover_the_truth():
    """Of videos whose questions are right together."""
    runs, covered = 150, 0
    for seed in range(runs):
        a, b, clusters = questions(seed, videos=40)
        found = paired_difference(a, b, clusters)
        covered += found.low <= 0.65 - 0.5 <= found.high
    assert covered / runs == pytest.approx(0.95, abs=0.045)


@pytest.mark.parametrize(("only_a", "only_b"), [(0.03, 0.03), (0.02, 0.08), (0.0, 0.1), (0.1, 0.2)])
def test_intervals_cover_the_truth_where_few_answers_differ(only_a, only_b):
    """Exactly, over all numbers of differing ones among 60 questions that are likely."""
    covered = seen = 0.0
    for lost, won in product(range(20), range(25)):
        chance = stats.multinomial.pmf([lost, won, 60 - lost - won], 60, [only_a, only_b, 1 - only_a - only_b])
        if chance > 1e-4 and lost + won:
            found = paired_difference(*pair(lost, won, alike=60 - lost - won))
            covered += chance * (found.low <= only_b - only_a <= found.high)
            seen += chance
    assert covered / seen > 0.93


def test_many_questions_take_no_longer_than_a_moment_and_lose_nothing():
    a, b = [True] * 1600 + [False] * 1400, [False] * 1600 + [True] * 1400
    found = paired_difference(a, b, range(3000))
    assert found.p_value == pytest.approx(stats.binomtest(1400, 3000).pvalue)


# Mistakes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_accuracy([], []), "correct is empty"),
        (lambda: bootstrap_accuracy([True, None], ["a", "b"]), r"correct\[1\] is None"),
        (lambda: bootstrap_accuracy([1], ["a"]), r"correct\[0\] is 1"),
        (lambda: bootstrap_accuracy([True], ["a", "b"]), "answers has 1, clusters has 2"),
        (lambda: bootstrap_accuracy([True], ["a"], ["x", "y"]), "groups has 2"),
        (lambda: bootstrap_accuracy([True], ["a"], confidence=95), "confidence is 95"),
        (lambda: bootstrap_accuracy([True], ["a"], resamples=0), "resamples is 0"),
        (lambda: bootstrap_accuracy([True], ["a"], method="basic"), "method is 'basic'"),
        (lambda: paired_difference([True], [True, False], ["a", "a"]), "a has 1, b has 2"),
        (lambda: paired_difference([True], [True], ["a"], confidence=95), "confidence is 95"),
        (lambda: paired_difference([], [], []), "a is empty"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
