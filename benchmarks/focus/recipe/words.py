"""
Words for a new selector, without labels of which frames matter: what questions name, and what frames show.

For rows whose selector may not learn from labels. A question encoder and a scorer, both new, learn what a caption
would teach them: the queries carry the words that a question names, and the scorer's products match them with what a
frame shows. Questions and frames are of different videos: nothing depends on whether a frame is asked for. A dual
encoder that was pretrained on captions already has all this.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from dynfocus.encoding.event_scoring import QuestionScorer
from dynfocus.eval.synthetic.questions import Question
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration
from dynfocus.selecting.events import take_frames

from .attention import choose_attention_of_questions
from .data import QuestionBatches
from .naming import NAMES, Naming, named_in
from .progress import train_parts

#: A named word that a frame shows adds about 8 to its score: below 0 for one of them, above it for two.
MATCH_SCALE, MATCH_BIAS = 2.0, -10.5


def learn_words(
    model: DynFocusForConditionalGeneration,
    naming: Naming,
    batches: QuestionBatches,
    partial: Path,
    *,
    batch_size: int,
    seed: int,
    device: str,
    **training: Any,
) -> None:
    """
    Train question encoder and scorer in place; `partial` is continued. An event's score then grows with the number of
    words that the question names and the event shows. `training` is passed to `train_parts`.
    """
    inner = model.model
    choose_attention_of_questions(model)
    parts = nn.ModuleList([inner.question_encoder, inner.event_prototypes.question_scorer])

    def losses_at(step: int) -> tuple[dict[str, torch.Tensor], tuple[()]]:
        rng = np.random.default_rng((seed, 2, step))
        rows, turns = batches.draw(rng, batch_size)
        # Each question is beside another's video.
        return word_losses(model, naming, batches, np.roll(rows, 1), turns, rng, device), ()

    train_parts(parts, losses_at, partial, stage="words", warm_up=50, every=50, device=device, **training)
    score_matches(inner.event_prototypes.question_scorer)


def word_losses(
    model: DynFocusForConditionalGeneration,
    naming: Naming,
    batches: QuestionBatches,
    rows: np.ndarray,
    turns: list[list[Question]],
    rng: np.random.Generator,
    device: str,
) -> dict[str, torch.Tensor]:
    """The losses of questions, each beside a random frame of the videos `rows`."""
    inputs, labels = batches.videos(rows, turns, device), batches.labels(rows, device)
    state, inner = inputs["video_state"], model.model
    frames = torch.from_numpy(rng.integers(state.frame_mask.shape[1], size=(len(rows), 1))).to(device)
    labels = {name: label.gather(1, frames) for name, label in labels.items()}
    named = torch.from_numpy(np.stack([named_in(questions[0].question) for questions in turns])).to(device)
    tokens = take_frames(state.grouped_tokens, frames)
    question = inputs["question_input_ids"], inputs["question_attention_mask"]
    scorer, sizes = inner.event_prototypes.question_scorer, list(NAMES.values())
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        queries = inner.question_encoder(*question, tokens, torch.ones_like(frames, dtype=torch.bool))
        matches = naming.matches(scorer, queries, tokens, named, labels)
        carried = scorer.query_match(scorer.query_norm(queries[:, 0]))
    # Exactly the directions of the named words: whatever else a query has would add noise to the score.
    of_kinds = zip(named.split(sizes, 1), naming.matching.split(sizes), strict=True)
    wanted = torch.stack([words @ directions for words, directions in of_kinds], 1)
    names = 8 * F.mse_loss(carried.float(), wanted)
    return {"question names": names, "frame names": matches["frame names"]}


def fix_words(model: DynFocusForConditionalGeneration) -> None:
    """
    Keep what has been learned from words: question encoder, and the maps of queries and tokens that the score
    multiplies. The few steps of a row would make them worse.
    """
    scorer = model.model.event_prototypes.question_scorer
    for part in (model.model.question_encoder, scorer.query_norm, scorer.query_match, scorer.token_match):
        part.requires_grad_(False)


@torch.no_grad()
def score_matches(scorer: QuestionScorer) -> None:
    """Let the products of queries and tokens count in the score from the start, where a new scorer has zeros."""
    scorer.out_proj.weight[:, scorer.token_match.in_features :] = MATCH_SCALE
    scorer.out_proj.bias.fill_(MATCH_BIAS)


__all__ = ["fix_words", "learn_words", "score_matches", "word_losses"]
