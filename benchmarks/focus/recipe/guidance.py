"""
Guidance: a loss on the attention of one head in two layers, from an answer to the frames on which it depends.

To answer about "the red star" a language model must find the tokens that show it among those of all other objects.
Large models have learned this from text. A small one that starts from random weights learns it late or never from the
answers alone, and guesses among the objects that it sees.

Where the answer is a number of events, attention to them alone would hide how many there are, as its sum is always 1.
There the head must attend equally to each of the events and to the first token of the chat, whose share is then
1 / (1 + number of events). If what is asked about is absent, it must attend to the first token alone.
"""

from collections.abc import Sequence

import torch

from .chats import Chats

#: Layers whose first head is guided; earlier layers must first gather what is asked for.
GUIDED_LAYERS = (2, 3)


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
) -> torch.Tensor:
    """
    Cross-entropy of the attention of answers that are numbers of events: as much on each of these events as on the
    first token; also of answers that something is absent, as if they were the number 0.

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
    numbers = torch.arange(int(event_of_token.max()) + 1, device=turns.device)
    # Column 0 is the first token. An event has a token in every layout with rods.
    exists = numbers <= event_of_token.amax(1, keepdim=True)
    losses = []
    for layer in GUIDED_LAYERS:
        paid = attentions[layer][:, 0][rows, places].float()
        of_video = paid[:, video_start : video_start + frame_of_token.shape[1]]
        shares = paid.new_zeros(exists.shape).scatter_add(1, event_of_token, of_video)
        shares = torch.cat([paid[:, :1], shares[:, 1:]], 1)
        logs = (shares + 1e-4).log().where(exists, 0.0)
        losses.append(-(logs.sum(1) / exists.sum(1)).mean())
    return torch.stack(losses).sum()


__all__ = ["GUIDED_LAYERS", "counting_loss", "guidance_loss"]
