"""Inputs that the model refuses: one sentence each, with what is wrong and the way out."""

import pytest
import torch
from tiny_models import VIDEO_TOKEN_ID, num_visual_tokens, of_prompt, tiny_inputs, tiny_model, tiny_plan


@pytest.fixture(scope="module")
def default_model():
    return tiny_model()


def test_placeholders_that_do_not_fit_the_videos(default_model):
    inputs = tiny_inputs(default_model.config, [5])
    count = num_visual_tokens(default_model.config, 5, tiny_plan(5))
    truncated = {**inputs, **{name: inputs[name][:, 3:] for name in of_prompt(inputs)}}
    with pytest.raises(ValueError, match=f"has {count - 2} video placeholder tokens, .* have {count} visual tokens"):
        default_model(**truncated)
    truncated["inputs_embeds"] = default_model.get_input_embeddings()(truncated.pop("input_ids"))
    with pytest.raises(ValueError, match=f"has {count - 2} video placeholder tokens, .* have {count} visual tokens"):
        default_model(**truncated)
    with pytest.raises(ValueError, match=f"has 0 video placeholder tokens, .* have {count} visual tokens"):
        default_model(**{**inputs, "input_ids": torch.full_like(inputs["input_ids"], VIDEO_TOKEN_ID + 1)})


@pytest.mark.parametrize("name", ["video_token_plan", "question_input_ids"])
def test_videos_need_a_plan_and_a_question(default_model, name):
    inputs = tiny_inputs(default_model.config, [5])
    del inputs[name]
    with pytest.raises(ValueError, match=f"Videos came without `{name}`"):
        default_model(**inputs)


def test_exactly_one_kind_of_input(default_model):
    inputs = tiny_inputs(default_model.config, [2])
    with pytest.raises(ValueError, match="exactly one of `input_ids` and `inputs_embeds`"):
        default_model()
    with pytest.raises(ValueError, match="exactly one of `pixel_values_videos` and `video_state`"):
        default_model.get_video_features(video_token_plan=inputs["video_token_plan"])
    state = default_model.encode_video(inputs["pixel_values_videos"])
    with pytest.raises(ValueError, match="exactly one of `pixel_values_videos` and `video_state`"):
        default_model(**inputs, video_state=state)


@pytest.mark.parametrize("plan", [[6, 2, 5], [3, 4, 5], [3, 2, 6], [3, 0, 5], [0, 0, 5], [3, 2, 0]])
def test_plans_that_do_not_fit_their_video(default_model, plan):
    inputs = tiny_inputs(default_model.config, [7, 5])
    inputs["video_token_plan"][1] = torch.tensor(plan)
    with pytest.raises(ValueError, match=rf"\[{plan[0]}, {plan[1]}, {plan[2]}\].*does not fit video 1 with 5 frames"):
        default_model(**inputs)


def test_plans_and_questions_are_one_a_video(default_model):
    inputs = tiny_inputs(default_model.config, [7, 5])
    with pytest.raises(ValueError, match=r"2 videos need .*of shape \(2, 3\) and one question each, got \(1, 3\)"):
        default_model(**{**inputs, "video_token_plan": inputs["video_token_plan"][:1]})
    with pytest.raises(ValueError, match="got .* and 1 questions"):
        default_model(**{**inputs, "question_input_ids": inputs["question_input_ids"][:1]})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_frames_that_are_not_numbers(default_model, value):
    inputs = tiny_inputs(default_model.config, [3, 5])
    inputs["pixel_values_videos"][0, 4] = value
    default_model(**inputs)  # in the padding it does not matter
    inputs["pixel_values_videos"][0, 1, 0, 0, 0] = value
    with pytest.raises(ValueError, match="`pixel_values_videos` holds NaN or infinite values"):
        default_model(**inputs)


def test_frame_masks_that_do_not_fit(default_model):
    pixels = tiny_inputs(default_model.config, [3, 3])["pixel_values_videos"]
    with pytest.raises(ValueError, match=r"`video_frame_mask` has the shape \(2, 2\), .*holds \(2, 3\)"):
        default_model.encode_video(pixels, torch.ones(2, 2))
    for mask in ([[1, 1, 1], [0, 0, 0]], [[1, 0, 1], [1, 1, 1]]):
        with pytest.raises(ValueError, match="at least one frame of every video, and its padding must come last"):
            default_model.encode_video(pixels, torch.tensor(mask))
    with pytest.raises(ValueError, match=r"must have the shape \(videos, frames, 3, height, width\), got \(3, 3"):
        default_model.encode_video(pixels[0])
