"""The configuration: presets, round trips, and settings that contradict each other."""

import json

import pytest
from tiny_models import settings_of, tiny_config, tiny_text_config

from dynfocus.configuration_dynfocus import PRESETS, DynFocusConfig


@pytest.mark.parametrize("preset", PRESETS)
def test_config_round_trip(preset, tmp_path):
    config = tiny_config(preset, rod_tokens=3, spatial_clusters=(8, 4))
    config.save_pretrained(tmp_path)
    loaded = DynFocusConfig.from_pretrained(tmp_path)
    again = DynFocusConfig.from_dict(json.loads(config.to_json_string()))
    assert settings_of(loaded) == settings_of(again) == settings_of(config)
    assert loaded.preset == preset
    assert loaded.question_context == {"default": "grouped", "released_code": "patches"}[preset]
    assert loaded.cone_tokens == 16 + 8 + 4


def test_default_config_is_whole():
    config = DynFocusConfig(question_config={"encoder_hidden_size": 768})
    assert config.cone_tokens == 38
    assert (config.vision_config.hidden_size, config.text_config.model_type) == (768, "llama")


def test_arguments_win_over_the_preset():
    assert tiny_config("released_code", question_context="grouped").question_context == "grouped"


EARLIER = {
    "default": {
        "event_clustering": "dpc_knn",
        "cone_source": "medoid",
        "cluster_gate": "bounded",
        "question_aware_score": True,
        "rods_on_key_frames": True,
        "question_context": "grouped",
    },
    "released_code": {
        "event_clustering": "kmeans",
        "cone_source": "centroid",
        "cluster_gate": "softmax",
        "question_aware_score": False,
        "rods_on_key_frames": False,
        "question_context": "patches",
    },
}


@pytest.mark.parametrize("preset", PRESETS)
def test_configurations_of_earlier_versions(preset, tmp_path):
    """They had a setting for each difference between the presets."""
    saved = tiny_config(preset).to_dict()
    del saved["preset"]
    (tmp_path / "config.json").write_text(json.dumps({**saved, **EARLIER[preset]}))
    assert settings_of(DynFocusConfig.from_pretrained(tmp_path)) == settings_of(tiny_config(preset))


def test_settings_of_no_preset_are_refused():
    with pytest.raises(ValueError, match="'cone_source': 'centroid'.* are of no preset: choose one of 'default', "):
        tiny_config(**{**EARLIER["default"], "cone_source": "centroid"})
    with pytest.raises(ValueError, match="'event_clustering': 'evil'"):
        tiny_config(event_clustering="evil")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoder_hidden_size": 20}, "`question_config.encoder_hidden_size` is 20, but .*`hidden_size` is 24"),
        ({"spatial_clusters": (16,)}, r"need two numbers each \(fine, coarse\), got \[16\]"),
        ({"spatial_neighbors": (8, 3, 2)}, r"need two numbers each .*\[8, 3, 2\]"),
        ({"spatial_clusters": (6, 16)}, "must fall from the tower's 64 patches .*got 6 and 16"),
        ({"spatial_clusters": (65, 6)}, "must fall from the tower's 64 patches .*got 65 and 6"),
        ({"spatial_clusters": (16, 0)}, r"`spatial_clusters` is \[16, 0\]: it must be whole and at least 1"),
        ({"pooling_grid": 9}, r"`pooling_grid` is 9, .*patch grid \(8, 8\)"),
        ({"pooling_grid": 0}, "`pooling_grid` is 0"),
        ({"temporal_neighbors": 2.5}, "`temporal_neighbors` is 2.5: it must be whole and at least 1"),
        ({"frames_per_chunk": -1}, "`frames_per_chunk` is -1"),
        ({"selection_sigma": float("nan")}, "`selection_sigma` must be a number of at least 0, got nan"),
        ({"question_context": "evil"}, "`question_context` must be 'grouped' or 'patches', got 'evil'"),
        ({"video_token_id": None}, "`video_token_id` must be a token's id, got None"),
        ({"rod_tokens": 1}, "`rod_tokens` is 1: it must be at least 2"),
        ({"rod_tokens": 4}, r"`num_question_queries` \(4\) must be divisible by `rod_tokens - 1`"),
    ],
)
def test_settings_that_contradict_each_other(fields, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**fields)


def test_language_models_with_other_positions_are_refused():
    text_config = tiny_text_config(
        "qwen2_vl_text",
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
    )
    with pytest.raises(ValueError, match="`qwen2_vl_text` with M-RoPE positions is not supported"):
        tiny_config(text_config=text_config)


def test_unknown_preset():
    with pytest.raises(ValueError, match="Unknown preset 'paper': choose one of 'default', 'released_code'"):
        DynFocusConfig.from_preset("paper")
