"""The question encoder: a Q-Former whose queries read the question and, for each frame, what the frame shows."""

import torch
from torch import nn
from transformers import InstructBlipQFormerModel

from ..configuration_dynfocus import DynFocusConfig
from ..selecting.events import take_frames


class QuestionEncoder(nn.Module):
    """InstructBLIP's Q-Former, followed by a linear map to the vision tower's width."""

    def __init__(self, config: DynFocusConfig):
        super().__init__()
        width = config.question_config.hidden_size
        self.frames_per_chunk = config.frames_per_chunk
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_question_queries, width))
        self.qformer = InstructBlipQFormerModel(config.question_config)
        self.projector = nn.Linear(width, config.vision_config.hidden_size)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        frame_tokens: torch.Tensor,
        frame_mask: torch.Tensor,
    ) -> torch.Tensor:
        """
        Args:
            input_ids (`torch.Tensor` of shape `(V, Q)`): the question of each video.
            attention_mask (`torch.Tensor` of shape `(V, Q)`): 0 on its padding.
            frame_tokens (`torch.Tensor` of shape `(V, T, N, D)`): what the queries look at.
            frame_mask (`torch.Tensor` of shape `(V, T)`, bool): the real frames.

        Returns:
            `torch.Tensor` of shape `(V, T, queries, D)`, zero on padding frames.
        """
        videos, frames = frame_mask.nonzero(as_tuple=True)
        # Without gradients, frames are encoded in chunks, because hours of video would not fit into memory.
        chunk = len(videos) if torch.is_grad_enabled() else self.frames_per_chunk
        encoded = [
            self._encode(input_ids[v], attention_mask[v], frame_tokens[v, t])
            for v, t in zip(videos.split(max(chunk, 1)), frames.split(max(chunk, 1)), strict=True)
        ]
        queries = torch.cat(encoded)
        padded = queries.new_zeros(*frame_mask.shape, *queries.shape[1:])
        return padded.index_put((videos, frames), queries)

    def _encode(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, frame_tokens: torch.Tensor
    ) -> torch.Tensor:
        queries = self.query_tokens.expand(len(input_ids), -1, -1)
        query_mask = attention_mask.new_ones(queries.shape[:2])
        outputs = self.qformer(
            input_ids=input_ids,
            attention_mask=torch.cat([query_mask, attention_mask], dim=1),
            query_embeds=queries,
            encoder_hidden_states=frame_tokens,
        )
        return self.projector(outputs.last_hidden_state[:, : queries.shape[1]])


class FrameQueries:
    """
    The question encoder's output at the frames of V videos, `(V, T, queries, D)`: all of it, or parts on demand.

    For a long video, the full output would be as large as the video's state. In chunks, only the frames of `take` are
    kept, because they are needed again. All frames are one chunk with gradients, which keep everything anyway, and
    with sharded weights, which are then gathered only once.

    Args:
        encoder (`QuestionEncoder`).
        input_ids, attention_mask, frame_tokens, frame_mask:
            see [`QuestionEncoder`]; in chunks, `frame_tokens` may be on another device or in another precision.
        in_chunks (`bool`): whether to encode `encoder.frames_per_chunk` frames at a time.
    """

    def __init__(
        self,
        encoder: QuestionEncoder,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        frame_tokens: torch.Tensor,
        frame_mask: torch.Tensor,
        in_chunks: bool,
    ):
        self.encoder, self.frame_tokens = encoder, frame_tokens
        self.input_ids, self.attention_mask = input_ids, attention_mask
        self.device, self.dtype = frame_mask.device, encoder.query_tokens.dtype
        self.num_frames = frame_mask.shape[1]
        #: Frames of a chunk, for everything that uses these queries.
        self.frames_per_chunk = encoder.frames_per_chunk if in_chunks else frame_mask.numel()
        #: The output at all frames, if they are one chunk.
        self.all_frames = None if in_chunks else encoder(input_ids, attention_mask, frame_tokens, frame_mask)
        self._taken: torch.Tensor | None = None
        self._row = torch.full((frame_mask.numel(),), -1, dtype=torch.long, device=frame_mask.device)

    def take(self, frames: torch.Tensor) -> torch.Tensor:
        """At `frames` `(V, K)` of each video: `(V, K, queries, D)`."""
        if self.all_frames is not None:
            return take_frames(self.all_frames, frames)
        videos = torch.arange(len(frames), device=frames.device)[:, None]
        places, row = (videos * self.num_frames + frames).unique(return_inverse=True)
        step = self.encoder.frames_per_chunk
        self._taken = torch.cat([self._encode(p // self.num_frames, p % self.num_frames) for p in places.split(step)])
        self._row.fill_(-1)[places] = torch.arange(len(places), device=places.device)
        return self._taken[row]

    def at(self, videos: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """At the places `videos`, `frames`, each of shape `(n,)`: `(n, queries, D)`."""
        if self.all_frames is not None:
            return self.all_frames[videos, frames]
        row = self._row[videos * self.num_frames + frames]
        if self._taken is None or not bool((row >= 0).any()):
            return self._encode(videos, frames)
        queries = self._taken[row.clamp(min=0)]
        new = row < 0
        if bool(new.any()):
            queries[new] = self._encode(videos[new], frames[new])
        return queries

    def _encode(self, videos: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        encoder, elsewhere = self.encoder, self.frame_tokens.device
        tokens = self.frame_tokens[videos.to(elsewhere), frames.to(elsewhere)].to(
            self._row.device, encoder.query_tokens.dtype
        )
        mask = torch.ones(len(tokens), 1, dtype=torch.bool, device=tokens.device)
        return encoder(self.input_ids[videos], self.attention_mask[videos], tokens[:, None], mask)[:, 0]


__all__ = ["FrameQueries", "QuestionEncoder"]
