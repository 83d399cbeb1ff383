"""DPC-KNN, k-means, means and medoids: the reference numbers, and what must hold for any tokens."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dynfocus.selecting import clustering
from dynfocus.selecting.clustering import dpc_knn, medoids, merge_tokens, weighted_kmeans

REFERENCE = Path(os.environ.get("DYNFOCUS_REFERENCE_DIR", Path(__file__).parents[1] / "fixtures" / "reference"))


def dpc_in_chunks(matrix_elements, *args, **kwargs):
    """`dpc_knn` that builds no distance matrix of more elements."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clustering, "_MATRIX_ELEMENTS", matrix_elements)
        return dpc_knn(*args, **kwargs)


def references(key):
    """The tensors of every reference file that has `key`."""
    found = [load_file(path) for path in sorted(REFERENCE.glob("*.safetensors"))]
    found = [tensors for tensors in found if key in tensors]
    assert found, f"no reference file in {REFERENCE} has {key}"
    return found


def random_tokens(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def by_definition(tokens, num_clusters, num_neighbors):
    """DPC-KNN of one row, tokens (N, D), in float64 and token by token, as the docstring states it."""
    tokens = tokens.double()
    length = len(tokens)
    # Squares first: the square of a root would break ties by its rounding.
    squared = (tokens[:, None] - tokens[None]).square().sum(-1) / tokens.shape[1]
    distance = squared.sqrt()
    spread = [row.sort().values[:num_neighbors].mean().item() for row in squared]
    delta = []
    for i in range(length):
        denser = [j for j in range(length) if (spread[j], j) < (spread[i], i)]
        delta.append(min(distance[i, j].item() for j in denser) if denser else distance[i].max().item())
    score = [torch.tensor(delta[i]).log().item() - spread[i] for i in range(length)]
    centers = sorted(range(length), key=lambda i: (-score[i], i))[:num_clusters]
    labels = distance[:, centers].argmin(1)
    labels[centers] = torch.arange(len(centers))
    return labels, torch.tensor(centers), (-torch.tensor(spread)).exp(), torch.tensor(delta)


# DPC-KNN


@pytest.mark.parametrize("level, source, clusters, neighbors", [(1, "frame_features", 16, 8), (2, None, 6, 3)])
def test_dpc_matches_the_reference(level, source, clusters, neighbors):
    for tensors in references("expect.dpc_labels_1"):
        tokens = tensors[source or "expect.dpc_tokens_1"]
        labels = dpc_knn(tokens, clusters, num_neighbors=neighbors).labels
        assert torch.equal(labels, tensors[f"expect.dpc_labels_{level}"])
        torch.testing.assert_close(
            merge_tokens(tokens, labels, clusters), tensors[f"expect.dpc_tokens_{level}"], atol=1e-4, rtol=0
        )


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 24), st.integers(1, 9), st.integers(1, 6), st.integers(1, 10), st.integers(0, 10**6))
def test_dpc_matches_its_definition(length, width, clusters, neighbors, seed):
    generator = torch.Generator().manual_seed(seed)
    # Small whole numbers are full of ties and duplicates; labels are compared where no rounding can decide: so there
    # the width, by which distances are divided, is a power of two, and the mean, which is taken off, is zero.
    ties = seed % 2 == 0
    if ties:
        half = torch.randint(-2, 3, (length, 2 ** (width % 4)), generator=generator).float()
        tokens = torch.cat([half, -half])
    else:
        # Below three neighbours, and among fewer than four tokens, densities are equal by definition.
        neighbors = max(neighbors, 3)
        tokens = random_tokens(max(length, 4), width + 8, seed=seed)
    result = dpc_knn(tokens[None], clusters, num_neighbors=neighbors)
    labels, centers, density, delta = by_definition(tokens, clusters, neighbors)
    torch.testing.assert_close(result.density[0], density, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(result.delta[0].double(), delta.double(), atol=1e-5, rtol=1e-4)
    if not ties:
        assert torch.equal(result.centers[0, : len(centers)], centers)
        assert torch.equal(result.labels[0], labels)


def test_dpc_ties_go_to_the_lowest_index():
    # Five pairs at equal distances along a line: all densities are equal.
    tokens = torch.tensor([0.0, 1, 10, 11, 20, 21, 30, 31, 40, 41])[None, :, None]
    result = dpc_knn(tokens, 3, num_neighbors=2)
    assert result.density.unique().numel() == 1
    assert result.centers.tolist() == [[0, 2, 4]]
    # 10.5 is as far from both ends: it goes to the first cluster.
    even = torch.tensor([0.0, 0, 0, 21, 21, 21, 10.5])[None, :, None]
    assert dpc_knn(even, 2, num_neighbors=3).labels.tolist() == [[0, 0, 0, 1, 1, 1, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("offset", [0.0, 40.0])
def test_dpc_duplicates_share_one_centre(dtype, offset):
    """Three still scenes: one peak each, the first frame of each, also where features have a large common offset."""
    scenes = (random_tokens(3, 48) + offset).to(dtype)
    order = torch.tensor([2, 0, 0, 1, 2, 2, 1, 0, 0, 1, 1, 2])
    result = dpc_knn(scenes[order][None], 3, num_neighbors=4)
    assert sorted(result.centers[0].tolist()) == [0, 1, 3]
    expected = torch.stack([(result.centers[0] == c).int().argmax() for c in (1, 3, 0)])[order]
    assert torch.equal(result.labels[0], expected)
    assert (result.delta[0] == 0).sum() == 9


def test_dpc_of_equal_tokens():
    result = dpc_knn(torch.full((2, 40, 16), 0.3), 4, num_neighbors=5)
    assert result.centers.tolist() == [[0, 1, 2, 3]] * 2
    assert result.labels.tolist() == [[0, 1, 2, 3] + [0] * 36] * 2
    assert torch.equal(result.density, torch.ones(2, 40))


def test_dpc_near_distances_survive_an_offset():
    """The centering: small steps on top of an offset 1000 times their size still order the tokens."""
    tokens = random_tokens(1, 60, 32)
    expected = dpc_knn(tokens, 6, num_neighbors=5)
    shifted = dpc_knn(tokens + 1024, 6, num_neighbors=5)
    torch.testing.assert_close(shifted.delta, expected.delta, atol=1e-3, rtol=0)
    torch.testing.assert_close(shifted.density, expected.density, atol=1e-3, rtol=0)


def test_dpc_scores_do_not_underflow():
    """Densities that are 0 in float32 still rank: the centres are the densest token of each of four distant groups."""
    corners = random_tokens(4, 64) * 1e4
    group = random_tokens(8, 64, seed=1) * 30
    densest = dpc_knn(group[None], 1, num_neighbors=4).centers.item()
    result = dpc_knn((corners[:, None] + group).view(1, 32, 64), 4, num_neighbors=4)
    assert result.density.max() == 0
    assert sorted(result.centers[0].tolist()) == [densest + 8 * i for i in range(4)]


def test_dpc_follows_a_permutation():
    tokens = random_tokens(3, 50, 12)
    shuffle = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    result = dpc_knn(tokens, 7, num_neighbors=4)
    shuffled = dpc_knn(tokens[:, shuffle], 7, num_neighbors=4)
    assert torch.equal(shuffled.labels, result.labels[:, shuffle])
    assert torch.equal(shuffle[shuffled.centers], result.centers)


@pytest.mark.parametrize("chunk_elements", [2**26, 600, 50])
def test_dpc_batch_equals_single_rows(chunk_elements):
    """Rows of different lengths and cluster numbers, padded with NaN, give what they give alone."""
    lengths, clusters = [30, 1, 17, 4], [6, 3, 2, 4]
    rows = [random_tokens(n, 20, seed=n) for n in lengths]
    tokens = torch.full((4, 30, 20), torch.nan)
    mask = torch.arange(30) < torch.tensor(lengths)[:, None]
    tokens[mask] = torch.cat(rows)
    result = dpc_in_chunks(chunk_elements, tokens, torch.tensor(clusters), num_neighbors=5, mask=mask)
    merged = merge_tokens(tokens, result.labels, 6, mask=mask)
    chosen = medoids(tokens, result.labels, num_clusters=6, mask=mask)
    for i, (row, n, num) in enumerate(zip(rows, lengths, clusters, strict=True)):
        alone = dpc_knn(row[None], num, num_neighbors=5)
        assert torch.equal(result.labels[i, :n], alone.labels[0])
        assert (result.labels[i, n:] == -1).all()
        assert torch.equal(result.centers[i, :num], alone.centers[0])
        assert (result.centers[i, num:] == -1).all()
        torch.testing.assert_close(result.density[i, :n], alone.density[0])
        torch.testing.assert_close(result.delta[i, :n], alone.delta[0])
        torch.testing.assert_close(merged[i, :num], merge_tokens(row[None], alone.labels, num)[0])
        assert (merged[i, num:] == 0).all()
        assert torch.equal(chosen[i, :num], medoids(row[None], alone.labels, num_clusters=num)[0])
        assert (chosen[i, num:] == -1).all()


@pytest.mark.parametrize("clusters", [4, 9])
def test_dpc_every_token_its_own_cluster(clusters):
    result = dpc_knn(random_tokens(2, 4, 8), clusters, num_neighbors=50)
    assert result.labels.sort().values.tolist() == [[0, 1, 2, 3]] * 2
    assert result.centers.shape == (2, clusters)
    assert torch.equal(result.labels.gather(1, result.centers[:, :4]), torch.arange(4).expand(2, 4))
    assert (result.centers[:, 4:] == -1).all()


@pytest.mark.parametrize(
    ("chunk_elements", "duplicates"), [(45, True), (477, False), (477, True), (45 * 45, False), (2 * 45 * 45, True)]
)
def test_dpc_in_chunks_equals_whole(chunk_elements, duplicates):
    tokens = random_tokens(3, 45, 33)
    if duplicates:
        tokens = tokens[:, torch.arange(45) // 5]
    whole = dpc_knn(tokens, 7, num_neighbors=12)
    chunked = dpc_in_chunks(chunk_elements, tokens, 7, num_neighbors=12)
    assert torch.equal(chunked.labels, whole.labels)
    assert torch.equal(chunked.centers, whole.centers)
    torch.testing.assert_close(chunked.density, whole.density)
    torch.testing.assert_close(chunked.delta, whole.delta)


class LargestTensor(TorchDispatchMode):
    """Records the elements of the largest tensor that an operation allocates."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)}
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if torch.is_tensor(leaf) and leaf.untyped_storage().data_ptr() not in given:
                self.elements = max(self.elements, leaf.numel())
        return out


@pytest.mark.parametrize(
    "shape, chunk_elements, bound",
    [((1, 200, 4096), 2**26, 200**2), ((1, 700, 640), 2**15, 2**15), ((64, 64, 256), 2**14, 2**14)],
    ids=["wide frames", "many frames", "patches"],
)
def test_dpc_memory_is_bounded(shape, chunk_elements, bound, monkeypatch):
    """No temporary is larger than T² or a chunk, however wide the tokens are, even for input that has to be cast."""
    # Slices of a few megabytes are allowed at any size; tiny inputs show the rule without them.
    monkeypatch.setattr("dynfocus.selecting.distances.SMALLEST_SLICE", 1)
    tokens = random_tokens(*shape, dtype=torch.bfloat16)
    with LargestTensor() as largest:
        dpc_in_chunks(chunk_elements, tokens, 25, num_neighbors=5)
    assert 0 < largest.elements <= bound


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_computes_in_float32(dtype):
    """Values whose squares overflow float16: the same clusters as of the same values in float32."""
    tokens = (random_tokens(2, 40, 64) * 500).to(dtype)
    result, wide = (dpc_knn(t, 6, num_neighbors=5) for t in (tokens, tokens.float()))
    assert torch.equal(result.labels, wide.labels)
    assert result.delta.dtype == torch.float32 and result.delta.isfinite().all()
    merged = merge_tokens(tokens, result.labels, 6)
    assert merged.dtype == dtype
    assert torch.equal(merged, merge_tokens(tokens.float(), wide.labels, 6).to(dtype))
    start = result.centers
    means, labels, sizes = weighted_kmeans(tokens, start)
    assert means.dtype == dtype and means.isfinite().all()
    assert torch.equal(labels, weighted_kmeans(tokens.float(), start).labels)
    assert sizes.sum(1).tolist() == [40, 40]


def test_autocast_changes_nothing():
    tokens = random_tokens(2, 40, 64)
    plain = dpc_knn(tokens, 6, num_neighbors=5)
    for chunk_elements in (2**26, 300):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = dpc_in_chunks(chunk_elements, tokens, 6, num_neighbors=5)
            merged = merge_tokens(tokens, result.labels, 6)
            centroids = weighted_kmeans(tokens, result.centers).centroids
        torch.testing.assert_close(result.delta, plain.delta)
        assert torch.equal(merged, merge_tokens(tokens, plain.labels, 6))
        torch.testing.assert_close(centroids, weighted_kmeans(tokens, plain.centers).centroids)


# Means and medoids


def test_merge_tokens_is_the_weighted_mean():
    tokens, weights = random_tokens(2, 9, 4), random_tokens(2, 9, seed=1).abs()
    labels = torch.tensor([[0, 0, 1, 1, 1, 3, 3, -1, 0]] * 2)
    merged = merge_tokens(tokens, labels, 4, weights=weights)
    for row in range(2):
        for cluster in (0, 1, 3):
            member = labels[row] == cluster
            share = weights[row, member] / weights[row, member].sum()
            torch.testing.assert_close(merged[row, cluster], share @ tokens[row, member])
    assert (merged[:, 2] == 0).all()
    assert torch.equal(merge_tokens(tokens, labels, 4, weights=torch.zeros(2, 9)), torch.zeros(2, 4, 4))


@pytest.mark.parametrize("masked", [False, True])
def test_merge_tokens_gradient(masked):
    tokens = random_tokens(2, 7, 3).double().requires_grad_()
    weights = random_tokens(2, 7, seed=1).double().abs().requires_grad_()
    labels = torch.tensor([[0, 1, 1, 3, 0, 3, 1], [3, 3, 3, 0, 0, 0, 0]])
    mask = torch.arange(7) < torch.tensor([[7], [5]]) if masked else None
    assert torch.autograd.gradcheck(lambda t, w: merge_tokens(t, labels, 4, w, mask), (tokens, weights))
    assert torch.autograd.gradcheck(lambda t: merge_tokens(t, labels, 4, None, mask), (tokens,))


def test_medoids_are_the_members_nearest_to_the_mean():
    tokens = random_tokens(3, 40, 10)
    labels = dpc_knn(tokens, 5, num_neighbors=4).labels
    labels[:, ::7] = -1
    centroids = merge_tokens(tokens, labels, 6)
    found = medoids(tokens, labels, centroids)
    assert torch.equal(found, medoids(tokens, labels, num_clusters=6))
    distance = torch.cdist(centroids, tokens).masked_fill(labels[:, None] != torch.arange(6)[:, None], torch.inf)
    assert torch.equal(found[:, :5], distance[:, :5].argmin(-1))
    assert (found[:, 5] == -1).all()


def test_medoid_ties_go_to_the_lowest_index():
    """Both members of a pair are equally far from their mean, however that is rounded; so are duplicates."""
    pairs = random_tokens(50, 2, 33) + 7
    assert (medoids(pairs, torch.zeros(50, 2, dtype=torch.int64), num_clusters=1) == 0).all()
    repeated = random_tokens(20, 3, 8)[:, [0, 1, 2, 1, 2, 0, 2, 1]]
    found = medoids(repeated, torch.zeros(20, 8, dtype=torch.int64), num_clusters=1)
    assert (found < 3).all()


# k-means


def test_kmeans_matches_the_reference():
    for tensors in references("expect.kmeans_init"):
        features, start = tensors["frame_features"], tensors["expect.kmeans_init"]
        frames, _, width = features.shape
        grid = features.unflatten(1, (16, 16)).unflatten(1, (4, 4)).unflatten(3, (4, 4)).mean((2, 4)).flatten(1, 2)
        torch.testing.assert_close(grid, tensors["expect.pooled"], atol=1e-4, rtol=0)
        centroids, labels, sizes = weighted_kmeans(grid.flatten(1), start)
        assert torch.equal(labels, tensors["expect.labels"])
        assert torch.equal(sizes, tensors["expect.cluster_sizes"])
        torch.testing.assert_close(
            centroids.view(len(start), -1, width), tensors["expect.centroids"], atol=1e-4, rtol=0
        )


def test_kmeans_rows_stop_independently():
    rows = [random_tokens(30, 4, seed=s) * s for s in (1, 2)] + [torch.arange(3.0).repeat(10)[:, None].expand(30, 4)]
    tokens, start = torch.stack(rows), torch.tensor([[0, 1, 2]] * 3)
    for rounds in (1, 2, 10, 100):
        together = weighted_kmeans(tokens, start, max_rounds=rounds)
        for i, row in enumerate(rows):
            for field, alone in zip(together, weighted_kmeans(row, start[0], max_rounds=rounds), strict=True):
                torch.testing.assert_close(field[i], alone)


def test_kmeans_converges_to_the_means_of_its_clusters():
    tokens, weights = random_tokens(2, 60, 5), random_tokens(2, 60, seed=1).abs()
    start = torch.arange(4).expand(2, 4)
    centroids, labels, sizes = weighted_kmeans(tokens, start, weights=weights, max_rounds=100, tolerance=1e-6)
    torch.testing.assert_close(centroids, merge_tokens(tokens, labels, 4, weights=weights), atol=1e-5, rtol=0)
    assert torch.equal(labels, torch.cdist(tokens, centroids).argmin(-1))
    member = torch.nn.functional.one_hot(labels, 4) * weights[..., None]
    torch.testing.assert_close(sizes, member.sum(1))


def test_kmeans_stop_keeps_the_centroids_of_before_the_last_update():
    tokens = random_tokens(20, 3)
    assert torch.equal(weighted_kmeans(tokens, torch.tensor([3, 5]), tolerance=1e9).centroids, tokens[[3, 5]])


def test_kmeans_ignores_masked_tokens_and_keeps_empty_clusters():
    tokens = torch.tensor([0.0, 0, 1, 9, 10, torch.nan])[:, None]
    mask = torch.tensor([True] * 5 + [False])
    # The first two centroids are duplicates: the first takes all, the second stays where it is.
    centroids, labels, sizes = weighted_kmeans(tokens, torch.tensor([0, 1, 4]), mask=mask, max_rounds=1)
    assert labels.tolist() == [0, 0, 0, 2, 2, -1]
    assert sizes.tolist() == [3, 0, 2]
    torch.testing.assert_close(centroids[:, 0], torch.tensor([1 / 3, 0, 9.5]))


def test_kmeans_centroids_are_differentiable():
    tokens = random_tokens(20, 3).requires_grad_()
    centroids, labels, sizes = weighted_kmeans(tokens, torch.tensor([0, 1]), max_rounds=50)
    centroids[0].sum().backward()
    expected = (labels == 0).float() / sizes[0]
    torch.testing.assert_close(tokens.grad, expected[:, None].expand(20, 3))


# Errors

TOKENS = torch.zeros(2, 5, 3)
LABELS = torch.zeros(2, 5, dtype=torch.int64)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: dpc_knn(TOKENS[0], 2, num_neighbors=2), r"\(B, N, D\).*\(5, 3\)"),
        (lambda: dpc_knn(TOKENS.int(), 2, num_neighbors=2), "floating point"),
        (lambda: dpc_knn(TOKENS[:, :0], 2, num_neighbors=2), r"none of them 0"),
        (lambda: dpc_knn(TOKENS, 0, num_neighbors=2), "num_clusters.*got 0"),
        (lambda: dpc_knn(TOKENS, torch.tensor([2, 0]), num_neighbors=2), "num_clusters.*got 0"),
        (lambda: dpc_knn(TOKENS, torch.tensor([2]), num_neighbors=2), r"num_clusters.*\(2,\).*\(1,\)"),
        (lambda: dpc_knn(TOKENS, 2, num_neighbors=0), "num_neighbors.*got 0"),
        (lambda: dpc_knn(TOKENS, 2, num_neighbors=2, mask=torch.ones(2, 4) > 0), r"mask.*\(2, 5\).*\(2, 4\)"),
        (lambda: dpc_knn(TOKENS, 2, num_neighbors=2, mask=torch.ones(2, 5)), "mask must be bool"),
        (lambda: merge_tokens(TOKENS, LABELS[:1], 2), "labels"),
        (lambda: merge_tokens(TOKENS, LABELS, 2, weights=torch.ones(5)), "weights"),
        (lambda: medoids(TOKENS, LABELS), "centroids or num_clusters"),
        (lambda: medoids(TOKENS, LABELS, torch.zeros(2, 2, 4)), r"\(2, L, 3\)"),
        (lambda: weighted_kmeans(TOKENS, LABELS[:1]), "init"),
        (lambda: weighted_kmeans(TOKENS[0], LABELS), "init"),
        (lambda: weighted_kmeans(TOKENS, LABELS, max_rounds=0), "max_rounds.*got 0"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
