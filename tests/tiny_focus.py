"""Choices of frames made by hand, and the order of the tokens that they lead to."""

import torch

from dynfocus.encoding.cooperative_encoding import token_layout
from dynfocus.selecting.focus import Focus

#: Added to the frame of a cone, to tell it from a rod.
CONE = 10_000


def focus_of(videos):
    """A `Focus` on given key frames and its frame mask, for videos given as (frames, key frames, rod groups)."""
    num_frames, keys, groups = zip(*videos, strict=True)
    key_frames = torch.full((len(videos), max(map(len, keys))), -1)
    for video, key in enumerate(keys):
        key_frames[video, : len(key)] = torch.tensor(key)
    frame_mask = torch.arange(max(num_frames)) < torch.tensor(num_frames)[:, None]
    return Focus.on_frames(key_frames, frame_mask, torch.tensor(groups)), frame_mask


def token_order(videos, rods_on_key_frames, *, rod_tokens=2, cone_tokens=3):
    """Of each video, for each token: the group of its rod, or 10,000 plus the key frame of its cone."""
    focus, frame_mask = focus_of(videos)
    layout = token_layout(focus, frame_mask, rod_tokens, cone_tokens, rods_on_key_frames)
    found = []
    for video in range(len(videos)):
        tokens = torch.full((int(layout.length[video]),), -1)
        for group in layout.rod_mask[video].nonzero()[:, 0].tolist():
            start = layout.rod_start[video, group]
            assert (tokens[start : start + rod_tokens] == -1).all(), "no token is written twice"
            tokens[start : start + rod_tokens] = group
        for slot, frame in enumerate(focus.key_frames[video, focus.key_mask[video]].tolist()):
            start = layout.cone_start[video, slot]
            assert (tokens[start : start + cone_tokens] == -1).all(), "no token is written twice"
            tokens[start : start + cone_tokens] = CONE + frame
        assert (tokens >= 0).all(), "every token is written"
        found.append(tokens.tolist())
    return found
