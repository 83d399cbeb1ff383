"""
Guidance: a loss on the attention of one head in two layers, from an answer to the frames on which it depends.

To answer about "the red star" a language model must find the tokens that show it among those of all other objects.
Large models have learned this from text. A small one that starts from random weights learns it late or never from the
answers alone, and guesses among the objects that it sees.

Where the answer is a number of events, attention to them alone would hide how many there are, as its sum is always 1.
There the head must attend equally to each of the events, and to the first token of the chat, whose share then says
their number. If what is asked about is absent, it must attend to the first token alone.

Events differ in length, and a frame cannot know how long its event will last. So in the end only the first frame of an
event counts. To know that a frame is the first one, a head of the layer before looks at the frame before it.
"""

from collections.abc import Sequence

import torch
from layouts import RODS
from torch.nn import functional as F

from .chats import Chats

#: Layers whose first head is guided; earlier layers must first gather what is asked for.
GUIDED_LAYERS = (2, 3)
#: Layer whose first head is guided from each frame to the one before.
PRECEDING_LAYER = 1
SHOWN_LAYERS = (PRECEDING_LAYER, *GUIDED_LAYERS)
#: With n events, the share of the first token is `FIRST_TOKEN / (FIRST_TOKEN + n)`: with 4, large n differ, too.
FIRST_TOKEN = 4.0


def guidance_loss(
    attentions: Sequence[torch.Tensor], chats: Chats, frame_of_token: torch.Tensor, video_start: int
) -> tuple[torch.Tensor, float]:
    """
    Minus the logarithm of the attention of answers to the tokens of the frames on which they depend.

    Args:
        attentions (one `torch.Tensor` of shape `(B, heads, L, L)` a layer): of the language model.
        frame_of_token (`torch.Tensor` of shape `(B, n)`): the frame of each visual token; the first is token
            `video_start` of the chat.

    Returns:
        The mean loss, and the mean share of attention in the last of `GUIDED_LAYERS`; 0 if no answer depends on a
        frame with tokens.
    """
    turns = chats.turn_of_token.to(frame_of_token.device)[:, 1:]
    rows, places = (turns >= 0).nonzero(as_tuple=True)
    looked_at = chats.looked_at.to(turns.device)[rows, turns[rows, places]]
    wanted = looked_at.gather(1, frame_of_token[rows])
    seen = wanted.any(1)
    if not seen.any():
        return 0 * attentions[GUIDED_LAYERS[0]].sum(), 0.0
    rows, places, wanted = rows[seen], places[seen], wanted[seen]
    losses, share = [], wanted.new_zeros(())
    for layer in GUIDED_LAYERS:
        paid = attentions[layer][:, 0, :, video_start : video_start + frame_of_token.shape[1]][rows, places]
        shares = (paid.float() * wanted).sum(-1)
        share = shares.detach().mean()
        losses.append(-(shares + 1e-4).log().mean())
    return torch.stack(losses).sum(), share.item()


def counting_loss(
    attentions: Sequence[torch.Tensor],
    chats: Chats,
    counted: torch.Tensor,
    frame_of_token: torch.Tensor,
    video_start: int,
    first_frames: bool = False,
    large_numbers: bool = False,
) -> torch.Tensor:
    """
    Kullback-Leibler divergence of the attention of answers that are numbers of events from what is wanted: as much on
    each of these events as on the first token. Answers that something is absent are the number 0.

    With `first_frames`, only the rods of the first frame of an event count, and the first token is wanted
    `FIRST_TOKEN` times as much as an event. The squared error of the logarithm of its share is added; with
    `large_numbers`, times (`FIRST_TOKEN` + n) / 2 for n events, as neighboring large numbers have similar shares.

    Args:
        counted (`torch.Tensor` of shape `(B, Q, T)`): see `QuestionBatches.counted`.
        attentions, chats, frame_of_token, video_start: as in `guidance_loss`.

    Returns:
        The mean loss; 0 if there are no such answers.
    """
    turns = chats.turn_of_token.to(frame_of_token.device)[:, 1:]
    rows, places = (turns >= 0).nonzero(as_tuple=True)
    event_of_frame = counted.to(turns.device)[rows, turns[rows, places]]
    counts = event_of_frame[:, 0] >= 0
    if not counts.any():
        return 0 * attentions[GUIDED_LAYERS[0]].sum()
    rows, places, event_of_frame = rows[counts], places[counts], event_of_frame[counts]
    event_of_token = event_of_frame.gather(1, frame_of_token[rows])
    if first_frames:
        goes_on = F.pad(event_of_frame[:, 1:] == event_of_frame[:, :-1], (1, 0)).gather(1, frame_of_token[rows])
        event_of_token = event_of_token.masked_fill(goes_on | ~are_rods(frame_of_token)[rows], 0)
    # Column 0 is the first token. An event has a token in every layout with rods.
    numbers = torch.arange(int(event_of_token.max()) + 1, device=turns.device)
    wanted = (numbers <= event_of_token.amax(1, keepdim=True)).float()
    wanted[:, 0] = FIRST_TOKEN if first_frames else 1.0
    total = wanted.sum(1, keepdim=True)
    wanted /= total
    losses = []
    for layer in GUIDED_LAYERS:
        paid = attentions[layer][:, 0][rows, places].float()
        of_video = paid[:, video_start : video_start + frame_of_token.shape[1]]
        shares = paid.new_zeros(wanted.shape).scatter_add(1, event_of_token, of_video)
        logs = (torch.cat([paid[:, :1], shares[:, 1:]], 1) + 1e-4).log()
        losses.append(F.kl_div(logs, wanted, reduction="none").sum(1).mean())
        if first_frames:
            errors = (logs[:, 0] - wanted[:, 0].log()).square()
            losses.append((errors * total[:, 0] / 2 if large_numbers else errors).mean())
    return torch.stack(losses).sum()


def preceding_loss(attentions: Sequence[torch.Tensor], frame_of_token: torch.Tensor, video_start: int) -> torch.Tensor:
    """
    Minus the logarithm of the attention of each rod to the rods of the frame before; the mean loss.

    Args:
        attentions, frame_of_token, video_start: as in `guidance_loss`; in a layout with rods.
    """
    stop = video_start + frame_of_token.shape[1]
    paid = attentions[PRECEDING_LAYER][:, 0, video_start:stop, video_start:stop].float()
    rods = are_rods(frame_of_token)
    wanted = (frame_of_token[:, :, None] - 1 == frame_of_token[:, None]) & rods[:, None]
    shares = (paid * wanted).sum(-1)[rods & (frame_of_token > 0)]
    return -(shares + 1e-4).log().mean()


def are_rods(frame_of_token: torch.Tensor) -> torch.Tensor:
    """Which visual tokens are rods, in a layout that has them: the last `RODS` of each frame."""
    return frame_of_token != F.pad(frame_of_token, (0, RODS), value=-1)[:, RODS:]


__all__ = ["FIRST_TOKEN", "GUIDED_LAYERS", "SHOWN_LAYERS", "counting_loss", "guidance_loss", "preceding_loss"]
