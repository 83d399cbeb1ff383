"""The `released_code` preset against numbers from the authors' released code, stage by stage.

Takes every `*.safetensors` in `DYNFOCUS_REFERENCE_DIR` (default: `tests/fixtures/reference`) by its metadata; the
README in that folder says what each key is.
"""

import math
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_models import tiny_config, tiny_text_config

from dynfocus.encoding.patch_grouping import group_patches, pool_patches
from dynfocus.encoding.released_code import ReleasedEncoder, ReleasedEstimator
from dynfocus.selecting.clustering import dpc_knn, merge_tokens, weighted_kmeans
from dynfocus.selecting.events import Events
from dynfocus.selecting.focus import Focus
from dynfocus.states.video_state import VideoState

FOLDER = Path(os.environ.get("DYNFOCUS_REFERENCE_DIR", Path(__file__).parents[1] / "fixtures" / "reference"))


def _files() -> dict[Path, dict[str, str]]:
    found = {}
    for path in sorted(FOLDER.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found[path] = file.metadata() or {}
    return found


FILES = _files()
PIPELINE = [path for path, metadata in FILES.items() if "frames" in metadata]

# Ours on the left, the released name on the right.
ENCODER_NAMES = {
    "cluster_gate.score": "merge.score",
    "projector.linear_1": "model.mm_projector.0",
    "projector.linear_2": "model.mm_projector.2",
    "key_projector": "model.vlm_att_key_projector",
    "value_projector": "model.vlm_att_val_projector",
}
SCORER_NAMES = {
    "norm": "in_conv.0",
    "in_proj": "in_conv.1",
    "hidden_proj": "out_conv.0",
    "middle_proj": "out_conv.2",
    "out_proj": "out_conv.4",
}


class Reference:
    """One file: its tensors, its sizes, and our modules with its weights."""

    def __init__(self, path: Path):
        self.tensors, metadata = load_file(path), FILES[path]
        self.frames, self.prototypes = int(metadata["frames"]), int(metadata["prototypes"])
        hidden, text_hidden = int(metadata["hidden"]), int(metadata["text_hidden"])
        self.events = min(self.frames, self.prototypes)
        self.num_key = math.ceil(float(metadata["key_ratio"]) * self.events)
        self.patches = self.tensors["frame_features"]
        side = math.isqrt(self.patches.shape[1])
        backbone = {
            "model_type": "siglip_vision_model",
            "image_size": side,
            "patch_size": 1,
            "hidden_size": hidden,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
        }
        text = tiny_text_config(hidden_size=text_hidden)
        config = tiny_config("released_code", text_config=text, backbone_config=backbone, encoder_hidden_size=hidden)
        self.grid, self.config = (side, side), config
        self.encoder = ReleasedEncoder(config)
        self.encoder.load_state_dict(self.weights(ENCODER_NAMES, "weights."))
        self.estimator = ReleasedEstimator(config)
        self.estimator.scorer.load_state_dict(self.weights(SCORER_NAMES, "weights.selective_net.score_network."))

    def weights(self, names: dict[str, str], prefix: str) -> dict[str, torch.Tensor]:
        kinds = ("weight", "bias")
        return {f"{ours}.{kind}": self[f"{prefix}{theirs}.{kind}"] for ours, theirs in names.items() for kind in kinds}

    def __getitem__(self, key: str) -> torch.Tensor:
        return self.tensors[key]

    def pooled(self) -> torch.Tensor:
        return pool_patches(self.patches, self.grid, self.config.pooling_grid)

    def grouped(self) -> tuple[torch.Tensor, torch.Tensor]:
        return group_patches(self.patches, self.config.spatial_clusters, self.config.spatial_neighbors)

    def gated(self) -> torch.Tensor:
        tokens, parents = self.grouped()
        return self.encoder.cluster_gate(tokens, parents)

    def find_events(self) -> Events:
        """From the released start frames, which are random there and an input here."""
        pooled = self.pooled()
        if self.frames <= self.prototypes:
            labels = starts = torch.arange(self.frames)
        else:
            starts = self["expect.kmeans_init"]
            labels = weighted_kmeans(pooled.flatten(1), starts).labels
            labels = labels.reshape(-1)
        prototypes = pooled
        if self.frames > self.prototypes:
            prototypes = weighted_kmeans(pooled.flatten(1), starts).centroids.reshape(self.events, *pooled.shape[1:])
        return Events(labels[None], starts[None], torch.ones(1, self.events, dtype=torch.bool), prototypes[None])

    def scores(self, events: Events) -> torch.Tensor:
        frame_mask = torch.ones(1, self.frames, dtype=torch.bool)
        return self.estimator(events, GivenQueries(self["question_queries"]), self.grouped()[0][None], frame_mask)

    def choose(self, events: Events) -> Focus:
        num_key, num_groups = torch.tensor([self.num_key]), torch.tensor([self.frames])
        return Focus.on_events(events, self.scores(events), num_key, num_groups)

    def state(self) -> VideoState:
        tokens, parents = self.grouped()
        return VideoState(
            frame_features=self.pooled()[None],
            grouped_tokens=tokens[None],
            parent_of_token=parents[None],
            frame_mask=torch.ones(1, self.frames, dtype=torch.bool),
        )


class GivenQueries:
    """The question encoder's output of one video, which is an input here: stands for `FrameQueries`."""

    device, dtype, frames_per_chunk = torch.device("cpu"), torch.float32, 10_000

    def __init__(self, queries: torch.Tensor):
        self.queries = queries

    def take(self, frames: torch.Tensor) -> torch.Tensor:
        return self.queries[frames]

    def at(self, videos: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        return self.queries[frames]


@pytest.fixture(params=PIPELINE, ids=lambda path: path.stem)
def reference(request) -> Reference:
    return Reference(request.param)


def assert_near(actual: torch.Tensor, expected: torch.Tensor):
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def test_folder_holds_both_cases():
    cases = {int(FILES[path]["frames"]) > int(FILES[path]["prototypes"]) for path in PIPELINE}
    assert cases == {True, False}, f"{FOLDER} needs a file that clusters and one that does not"


def test_pooling(reference):
    assert_near(reference.pooled(), reference["expect.pooled"])


def test_kmeans(reference):
    if "expect.kmeans_init" not in reference.tensors:
        assert reference.frames <= reference.prototypes
        return
    result = weighted_kmeans(reference.pooled().flatten(1), reference["expect.kmeans_init"])
    assert torch.equal(result.labels.reshape(-1), reference["expect.labels"])
    assert_near(result.centroids.reshape(reference["expect.centroids"].shape), reference["expect.centroids"])
    assert_near(result.sizes.reshape(-1).float(), reference["expect.cluster_sizes"])


@pytest.mark.parametrize("round_", [1, 2])
def test_patch_grouping(reference, round_):
    tokens = reference.patches if round_ == 1 else reference["expect.dpc_tokens_1"]
    clusters = reference.config.spatial_clusters[round_ - 1]
    labels = dpc_knn(tokens, clusters, num_neighbors=reference.config.spatial_neighbors[round_ - 1]).labels
    assert torch.equal(labels, reference[f"expect.dpc_labels_{round_}"])
    assert_near(merge_tokens(tokens, labels, clusters), reference[f"expect.dpc_tokens_{round_}"])


def test_structured_tokens(reference):
    assert_near(reference.gated(), reference["expect.structured_tokens"])


def test_scores_and_key_frames(reference):
    events = reference.find_events()
    assert_near(reference.scores(events)[0], reference["expect.prototype_scores"])
    focus = reference.choose(events)
    assert torch.equal(focus.key_events[0], reference["expect.selected_prototypes"])
    assert torch.equal(focus.key_frames[0].sort().values, reference["expect.key_frames"])


def test_rods(reference):
    assert_near(reference.encoder.rods(reference.gated(), reference["question_queries"]), reference["expect.rods_all"])


def test_visual_tokens(reference):
    events = reference.find_events()
    order = events.medoids.argsort(dim=1)
    # Our events are numbered in time order; the released ones in the order of their start frames.
    events = Events(
        events.event_of_frame,
        events.medoids.gather(1, order),
        events.mask,
        events.prototypes.gather(1, order[..., None, None].expand_as(events.prototypes)),
    )
    queries = GivenQueries(reference["question_queries"])
    (tokens,) = reference.encoder(reference.state(), queries, reference.choose(events))
    assert_near(tokens, reference["expect.visual_tokens"])
