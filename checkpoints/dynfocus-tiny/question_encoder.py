"""The question encoder: a Q-Former whose queries read the question and, for each frame, what the frame shows."""

import torch
from torch import nn
from transformers import InstructBlipQFormerModel

from .configuration_dynfocus import DynFocusConfig


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
        # Without gradients the frames go through in chunks, as hours of video would not fit otherwise.
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


__all__ = ["QuestionEncoder"]
