"""Target directions of tokens for the content of a frame, and losses of tokens against them."""

import re

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from dynfocus.encoding.event_scoring import QuestionScorer
from dynfocus.eval.synthetic.world import COLORS, SHAPES
from dynfocus.modeling_dynfocus import DynFocusForConditionalGeneration

from .vision import NAMES, NUM_DIGITS

#: Distance of a token for the frame's side from that for the middle, in lengths of the other directions, because
#: motions are differences.
PLACE_SCALE = 2.0
#: The `NAMES` that rods carry, with one query of the question encoder each; cones carry all.
COARSE = ("color", "shape")


def named_in(question: str) -> np.ndarray:
    """1 for each color, shape and digit in its place that a question names, in the order of `NAMES`."""
    words = [
        *(re.search(rf"\b{name}\b", question) is not None for name in COLORS),
        *(re.search(rf"\b{name}(e?s)?\b", question) is not None for name in SHAPES),
    ]
    number = re.search(rf"\b\d{{{NUM_DIGITS}}}\b", question)
    digits = np.zeros((NUM_DIGITS, 10))
    if number is not None:
        digits[range(NUM_DIGITS), [int(digit) for digit in number[0]]] = 1
    return np.concatenate([words, digits.ravel()]).astype(np.float32)


class Naming(nn.Module):
    """
    Fixed directions in the language model's width for the content of frames, and the reading of tokens along them.
    """

    def __init__(self, model: DynFocusForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, seed: int):
        super().__init__()
        embeddings: torch.Tensor = model.get_input_embeddings().get_parameter("weight").detach()
        generator = torch.Generator().manual_seed(seed)
        norm = embeddings.norm(dim=1).mean()

        def directions(count: int) -> torch.Tensor:
            drawn = torch.randn(count, embeddings.shape[1], generator=generator).to(embeddings.device)
            return drawn / drawn.norm(dim=1, keepdim=True) * norm

        def words(texts: list[str]) -> torch.Tensor:
            ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
            return torch.stack([embeddings[word].mean(0) for word in ids])

        self.sharpness = 6 / norm.item() ** 2
        codes = {"color": words([f" {name}" for name in COLORS]), "shape": words([f" {name}" for name in SHAPES])}
        # The same digit at another place has another direction.
        digits = words([str(digit) for digit in range(10)])
        codes |= {name: (directions(10) + digits) / 2**0.5 for name in NAMES if name not in codes}
        self.codes = nn.ParameterDict({name: nn.Parameter(code, requires_grad=False) for name, code in codes.items()})
        self.present = nn.Parameter(directions(1)[0], requires_grad=False)
        self.place = nn.Parameter(directions(2) / norm**2, requires_grad=False)
        #: In the score, question and frame are compared without words, so any directions can be used.
        width = model.config.vision_config.hidden_size
        matching = torch.randn(sum(NAMES.values()), width, generator=generator)
        self.matching = nn.Parameter(2 * (matching * width**0.25 / matching.norm(dim=1, keepdim=True)), False)
        #: One query for each thing to read from the cones; rods are read directly.
        self.queries = nn.Parameter(torch.zeros(len(NAMES) + 1, embeddings.shape[1]))

    def rods(self, tokens: torch.Tensor, labels: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Losses of the rods `(V, T, H)` against labels `(V, T)`."""
        losses = {f"rod {name}": self.naming_loss(name, tokens, labels) for name in COARSE}
        fit = self.sharpness * (tokens @ self.present - 0.5 * self.present.square().sum())
        losses["rod present"] = F.binary_cross_entropy_with_logits(fit, labels["present"].float())
        return {**losses, "rod place": self.place_loss(tokens, labels)}

    def cones(self, tokens: torch.Tensor, labels: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Losses of the cones `(V, K, c, H)` against labels `(V, K)`."""
        attention = (self.queries @ tokens.transpose(-1, -2) * self.sharpness).softmax(-1)
        read = attention @ tokens
        losses = {
            f"cone {name}": self.naming_loss(name, read[:, :, index], labels) for index, name in enumerate(NAMES)
        }
        # A digit is useful only if the token also identifies its object.
        owners = [
            self.naming_loss(coarse, read[:, :, index], labels)
            for index, name in enumerate(NAMES)
            for coarse in COARSE
            if name not in COARSE
        ]
        losses["cone owner"] = torch.stack(owners).mean()
        return {**losses, "cone place": self.place_loss(read[:, :, -1], labels)}

    def matches(
        self, scorer: QuestionScorer, queries: torch.Tensor, tokens: torch.Tensor, asked: torch.Tensor, labels: dict
    ) -> dict[str, torch.Tensor]:
        """
        Losses of the two sides that the score multiplies: the queries `(V, T, 4, D)` against what the questions name,
        `(V, words)`, and the tokens `(V, T, N, D)` against what the frames show.
        """
        half = 0.5 * self.matching.square().sum(1)
        scale = 6 / (2 * half.mean())
        of_questions = scorer.query_match(scorer.query_norm(queries))
        kinds = torch.arange(len(NAMES), device=half.device).repeat_interleave(torch.tensor(list(NAMES.values())))
        fit = scale * (torch.einsum("vtwd,wd->vtw", of_questions[:, :, kinds], self.matching) - half)
        wanted = asked[:, None].expand_as(fit)
        shown = torch.cat(
            [
                F.one_hot(labels[name].clamp(min=0), count) * (labels[name] >= 0)[..., None]
                for name, count in NAMES.items()
            ],
            -1,
        )
        found = scale * ((scorer.token_match(tokens) @ self.matching.T).amax(2) - half)
        return {
            "question names": 8 * F.binary_cross_entropy_with_logits(fit.float(), wanted),
            "frame names": 8 * F.binary_cross_entropy_with_logits(found.float(), shown.float()),
        }

    def naming_loss(self, name: str, tokens: torch.Tensor, labels: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = self.sharpness * tokens @ self.codes[name].T
        return F.cross_entropy(logits.flatten(0, 1), labels[name].flatten(), ignore_index=-100)

    def place_loss(self, tokens: torch.Tensor, labels: dict[str, torch.Tensor]) -> torch.Tensor:
        """Mean distance, in sixths of the frame's side."""
        wanted = PLACE_SCALE * (torch.stack([labels["x"], labels["y"]], dim=-1) - 0.5)
        distance = 6 / PLACE_SCALE * (tokens @ self.place.T - wanted).abs().sum(-1)
        return (distance * labels["present"]).sum() / labels["present"].sum().clamp(min=1)


__all__ = ["NAMES", "Naming", "named_in"]
