"""The selector learns from the likelihood of the answers: which events make the right answer likely?"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dynfocus.modeling_outputs_dynfocus import DynFocusCausalLMOutputWithPast
from dynfocus.selecting.focus import Focus

from .selection_noise import selector

#: Events of a video that are tried in a step.
EVENTS_TRIED = 8


def likelihood_loss(
    model: nn.Module,
    inputs: Mapping[str, Any],
    outputs: DynFocusCausalLMOutputWithPast,
    generator: torch.Generator | None = None,
    num_events: int = EVENTS_TRIED,
) -> torch.Tensor:
    """
    The mean of [`score_loss`] over videos, for some of their events, which are shown to the language model one at a
    time: half of them those with the highest scores, the others at random. Labels are not needed, except the answers.

    The gradient reaches what the scores depend on: selector and question encoder.

    Args:
        model: a [`DynFocusForConditionalGeneration`], which may be wrapped by peft.
        inputs: the inputs of the model's call, with `labels`.
        outputs: of that call, with gradients.
        generator: random generator of the events, on the CPU.
        num_events: events that are tried for each video.

    Returns:
        `torch.Tensor`: a scalar, the mean over videos; 0 for a batch without videos, or in which a row has several
        videos.
    """
    video, rows = outputs.video_outputs, _rows_with_one_video(model, inputs)
    if video is None or video.event_scores is None or rows is None:
        assert outputs.logits is not None
        return outputs.logits.new_zeros((), dtype=torch.float32)
    tried = [_events_to_try(scores.detach().cpu(), num_events, generator) for scores in video.event_scores]
    device = video.event_scores[0].device
    shown = nn.utils.rnn.pad_sequence(tried, batch_first=True).to(device)
    likelihoods = answer_likelihoods(model, inputs, shown, rows)
    losses = []
    for scores, events, of_events in zip(video.event_scores, tried, likelihoods, strict=True):
        losses.append(score_loss(scores[events.to(device)], of_events[: len(events)]))
    return torch.stack(losses).mean()


def score_loss(scores: torch.Tensor, likelihoods: torch.Tensor) -> torch.Tensor:
    """
    The loss of scores by p, the probability of the answer if one event is shown in fine detail and no other.

    The first part is the loss of the answer if the event is drawn by the softmax of the scores: −log Σ softmax(score)
    · p. Its gradient moves the softmax towards the share of each event in Σ softmax(score) · p, as in the E-step of
    expectation maximization. It only orders the scores, and does not see what is added to all of them.

    The second part brings sigmoid(score), which the tokens of a frame carry, near 1 for the best event and near 0 for
    those that are no better than the mean: binary cross-entropy with (p − mean p) / (max p − mean p), at least 0. Its
    weight is max p − mean p.

    Both have no gradient where the answer is as likely with any event, as for questions that need no key frame.

    Args:
        scores (`torch.Tensor` of shape `(…, S)`): of the events that were tried.
        likelihoods (`torch.Tensor` of shape `(…, S)`): log p.

    Returns:
        `torch.Tensor` of shape `(…)`.
    """
    drawn = -(scores.log_softmax(-1) + likelihoods).logsumexp(-1)
    gain = likelihoods.exp() - likelihoods.exp().mean(-1, keepdim=True)
    highest = gain.amax(-1, keepdim=True)
    wanted = (gain / highest.clamp(min=torch.finfo(gain.dtype).tiny)).clamp(min=0)
    alone = F.binary_cross_entropy_with_logits(scores, wanted, reduction="none").mean(-1)
    return drawn + highest[..., 0] * alone


@torch.no_grad()
def answer_likelihoods(
    model: nn.Module, inputs: Mapping[str, Any], shown: torch.Tensor, rows: torch.Tensor | None = None
) -> torch.Tensor:
    """
    Log-probabilities of the answers if only one event of a video is shown in detail: coarse tokens of all frames, fine
    tokens of the event's frame, and no scores in the tokens.

    Args:
        model: a [`DynFocusForConditionalGeneration`], which may be wrapped by peft.
        inputs: the model's inputs, with `labels`.
        shown (`torch.Tensor` of shape `(V, S)`, int64): events of each video, each shown without the others.
        rows (`torch.Tensor` of shape `(V,)`, int64, *optional*): the row of each video, by default one after another.

    Returns:
        `torch.Tensor` of shape `(V, S)`, float32: the sum over all learned tokens of the video's row.
    """
    inner = selector(model)
    whole: Any = next(module for module in model.modules() if getattr(module, "model", None) is inner)
    with _evaluating(inner.language_model):
        state, queries, plan, _ = inner._prepare(
            inputs.get("pixel_values_videos"),
            inputs.get("video_state"),
            inputs.get("video_frame_mask"),
            inputs["video_token_plan"],
            inputs["question_input_ids"],
            inputs.get("question_attention_mask"),
            # The output is needed for each of the events.
            allow_chunks=False,
        )
        events = inner.event_prototypes.events_of(state, plan[:, 0], queries.device, queries.dtype)
        one = torch.ones_like(shown[:, :1], dtype=torch.bool)
        tokens = [
            inner.cooperative_encoder(state, queries, Focus(events, None, event, one, plan[:, 2]))
            for event in shown.split(1, dim=1)
        ]
        found = []
        for video, row in enumerate(range(len(shown)) if rows is None else rows.tolist()):
            visual = torch.stack([of_event[video] for of_event in tokens])
            real = inputs["attention_mask"][row].bool()
            found.append(_likelihood(whole, inputs["input_ids"][row][real], inputs["labels"][row][real], visual))
    return torch.stack(found)


def _likelihood(model: Any, ids: torch.Tensor, labels: torch.Tensor, visual: torch.Tensor) -> torch.Tensor:
    """
    Log-probability of the labels of a row `ids`, `labels` `(n,)` with each of the videos `visual` `(S, tokens, H)` in
    place of its placeholders: `(S,)`.
    """
    places = (ids == model.config.video_token_id).nonzero()[:, 0]
    first, after = int(places[0]), int(places[-1]) + 1
    learned = labels[after:]
    begin = (learned != -100).nonzero()[:, 0]
    if not len(begin):
        return visual.new_zeros(len(visual), dtype=torch.float32)
    wanted = learned[int(begin[0]) :].expand(len(visual), -1)
    words = model.get_input_embeddings()(ids)
    before, behind = (part.expand(len(visual), -1, -1) for part in (words[:first], words[after:]))
    sequence = torch.cat([before, visual.to(words.dtype), behind], dim=1)
    # The position before an answer predicts its first token.
    logits = model(inputs_embeds=sequence, logits_to_keep=wanted.shape[1] + 1, use_cache=False).logits[:, :-1]
    return -F.cross_entropy(logits.float().transpose(1, 2), wanted, reduction="none").sum(1)


def _rows_with_one_video(model: nn.Module, inputs: Mapping[str, Any]) -> torch.Tensor | None:
    """The row of each video `(V,)`, or `None` if there are no videos, or a row has several."""
    plan = inputs.get("video_token_plan")
    if plan is None:
        return None
    has_video = (inputs["input_ids"] == selector(model).config.video_token_id).any(1)
    rows = has_video.nonzero()[:, 0]
    return rows if len(rows) == len(plan) else None


def _events_to_try(scores: torch.Tensor, count: int, generator: torch.Generator | None) -> torch.Tensor:
    """At most `count` of the events with `scores` `(L,)`: half of them the highest, the others at random; sorted."""
    best = scores.topk(min(count // 2, len(scores))).indices
    chances = torch.rand(len(scores), generator=generator).scatter(0, best, 2.0)
    return chances.topk(min(count, len(scores))).indices.sort().values


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Without dropout."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


__all__ = ["EVENTS_TRIED", "answer_likelihoods", "likelihood_loss", "score_loss"]
