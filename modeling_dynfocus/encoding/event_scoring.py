"""Scores of events: one scorer that does not see the question, and one that does."""

import math

import torch
from torch import nn
from torch.nn import functional as F


class ZeroLinear(nn.Module):
    """
    A linear map that is zero in a new model: `(…, in)` to `(…, out)`.

    It is not an `nn.Linear`, because libraries that quantize replace those: they divide each row by its largest
    weight, which is 0 here, and cannot form groups of weights in rows of one weight.

    It initializes itself, because transformers skips modules that have no weights of their own.
    """

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return F.linear(inputs, self.weight, self.bias)


class EventScorer(nn.Module):
    """An event's score from its prototype alone (paper section 3.2): an MLP on mean ‖ max of its tokens."""

    def __init__(self, hidden_size: int):
        super().__init__()
        width = 2 * hidden_size
        self.norm = nn.LayerNorm(width)
        self.in_proj = nn.Linear(width, width)
        self.hidden_proj = nn.Linear(width, width // 2)
        self.middle_proj = nn.Linear(width // 2, width // 4)
        self.out_proj = nn.Linear(width // 4, 1)
        self.act = nn.GELU()

    def forward(self, pooled: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`pooled` `(V, L, 2D)` is mean ‖ max of each prototype, `mask` `(V, L)` the real events; returns `(V, L)`."""
        hidden = self.act(self.in_proj(self.norm(pooled)))
        local, context = hidden.chunk(2, dim=-1)
        # Half of the channels describe the whole video, so that an event is scored relative to the others.
        weights = mask.to(context.dtype)[..., None]
        context = (context * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
        hidden = torch.cat([local, context.expand_as(local)], dim=-1)
        hidden = self.act(self.hidden_proj(hidden))
        return self.out_proj(self.act(self.middle_proj(hidden))).squeeze(-1)


class EventAttention(nn.Module):
    """One layer of self-attention between the events of a video, and an MLP, both with residual connections."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.num_heads = math.gcd(4, hidden_size)
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.qkv_proj = nn.Linear(hidden_size, 3 * hidden_size)
        self.attention_proj = nn.Linear(hidden_size, hidden_size)
        self.mlp_norm = nn.LayerNorm(hidden_size)
        self.up_proj = nn.Linear(hidden_size, hidden_size)
        self.down_proj = nn.Linear(hidden_size, hidden_size)
        self.act = nn.GELU()

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`hidden` `(V, L, D)`, `mask` `(V, L)` the real events, which alone are attended to; returns `(V, L, D)`."""
        heads = self.qkv_proj(self.attention_norm(hidden)).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
        hidden = hidden + self.attention_proj(seen.transpose(1, 2).flatten(2))
        return hidden + self.down_proj(self.act(self.up_proj(self.mlp_norm(hidden))))


class EventOrder(nn.Module):
    """
    Adds the order of events: how many came before an event, and how many come after it.

    Each channel counts the events that have a learned property ("shows an object", "matches the question"), before an
    event and after it; the counts `n` are seen as `1 / (1 + n)`: 1 where there are none, near 0 where there are many.
    So the first or the last one is found in one step for any number of events, which attention alone learns late or
    not at all.
    """

    def __init__(self, hidden_size: int, num_channels: int = 16):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.property_proj = nn.Linear(hidden_size, num_channels)
        self.out_proj = nn.Linear(3 * num_channels, hidden_size)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`hidden` `(V, L, D)` in the order of time, `mask` `(V, L)` the real events; returns `(V, L, D)`."""
        # Sums over hundreds of events need float32.
        properties = self.property_proj(self.norm(hidden)).float().sigmoid() * mask[..., None]
        so_far = properties.cumsum(1)
        before, after = so_far - properties, so_far[:, -1:] - so_far
        seen = torch.cat([properties, 1 / (1 + before), 1 / (1 + after)], dim=-1)
        return hidden + self.out_proj(seen.to(hidden.dtype))


class QuestionScorer(nn.Module):
    """
    Adds the question's part to an event's score; zero in a new model, so that training starts without the question.

    An MLP on the question encoder's output, the prototype and the event's place in time, beside how well the question
    matches what the frame shows (late interaction): each query's largest product with one of the frame's tokens.
    Without these products, matching question and frame takes far longer to learn. Events then count the events before
    and after them, and attend to each other: the features of one event do not show which comes first, or right after
    another.
    """

    num_time_features = 4

    def __init__(self, hidden_size: int, num_queries: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * hidden_size)
        self.in_proj = nn.Linear(4 * hidden_size + self.num_time_features + num_queries, hidden_size)
        self.event_order = EventOrder(hidden_size)
        self.event_attention = EventAttention(hidden_size)
        self.query_norm = nn.LayerNorm(hidden_size)
        self.query_match = nn.Linear(hidden_size, hidden_size)
        self.token_match = nn.Linear(hidden_size, hidden_size)
        self.out_proj = ZeroLinear(hidden_size + num_queries, 1)
        self.act = nn.GELU()

    def forward(
        self,
        queries: torch.Tensor,
        tokens: torch.Tensor,
        pooled: torch.Tensor,
        time_features: torch.Tensor,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        """
        Args:
            queries (`torch.Tensor` of shape `(V, L, queries, D)`): the question encoder's output at each medoid frame.
            tokens (`torch.Tensor` of shape `(V, L, N, D)`): the grouped tokens of each medoid frame.
            pooled (`torch.Tensor` of shape `(V, L, 2D)`): mean ‖ max of each prototype.
            time_features (`torch.Tensor` of shape `(V, L, 4)`): see `event_time_features`.
            mask (`torch.Tensor` of shape `(V, L)`, bool): the real events.

        Returns:
            `torch.Tensor` of shape `(V, L)`.
        """
        seen = torch.cat([queries.mean(2), queries.amax(2), pooled], dim=-1)
        products = self.query_match(self.query_norm(queries)) @ self.token_match(tokens).transpose(-1, -2)
        matches = products.amax(-1) * tokens.shape[-1] ** -0.5
        hidden = torch.cat([self.norm(seen), time_features.to(seen.dtype), matches], dim=-1)
        hidden = self.event_order(self.act(self.in_proj(hidden)), mask)
        hidden = self.event_attention(hidden, mask)
        return self.out_proj(torch.cat([hidden, matches], dim=-1)).squeeze(-1)


__all__ = ["EventAttention", "EventOrder", "EventScorer", "QuestionScorer", "ZeroLinear"]
