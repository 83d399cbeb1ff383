"""The parts of an event's score: events see one another, and count what comes before and after them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynfocus.encoding.event_scoring import EventAttention, EventOrder, EventScorer


def test_an_event_is_scored_against_the_others_but_not_the_padding():
    torch.manual_seed(0)
    scorer = EventScorer(4)
    pooled = torch.randn(1, 5, 8)
    mask = torch.tensor([[True, True, True, False, False]])
    padded = scorer(pooled, mask)[:, :3]
    torch.testing.assert_close(padded, scorer(pooled[:, :3], mask[:, :3]))
    other = pooled[:, :3].clone()
    other[:, 2] = torch.randn(8)
    assert not torch.allclose(scorer(other, mask[:, :3])[:, :2], padded[:, :2])


def order_of(marks):
    """An `EventOrder` of one channel that counts the marked events, its two counts by event, and what it is given."""
    order = EventOrder(4, num_channels=1)
    with torch.no_grad():
        # Marked or not, an event's norm is the same: what differs is its sign.
        order.property_proj.weight.copy_(torch.tensor([[20.0, -20.0, 20.0, -20.0]]))
        order.property_proj.bias.zero_()
        order.out_proj.weight.copy_(torch.eye(4, 3))
        order.out_proj.bias.zero_()
    hidden = torch.tensor([1.0, -1.0, 1.0, -1.0]) * torch.where(torch.tensor(marks), 1.0, -1.0)[:, None]
    return order, hidden[None]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.booleans(), min_size=1, max_size=70), st.integers(0, 3))
def test_an_event_knows_how_many_came_before_and_how_many_come_after(marks, padding):
    order, hidden = order_of(marks)
    mask = torch.arange(len(marks) + padding)[None] < len(marks)
    padded = torch.cat([hidden, hidden.new_ones(1, padding, 4)], 1)
    own, before, after, _ = (order(padded, mask) - padded)[0, : len(marks)].unbind(-1)
    for index, mark in enumerate(marks):
        assert own[index].item() == pytest.approx(float(mark), abs=1e-4)
        assert before[index].item() == pytest.approx(1 / (1 + sum(marks[:index])), abs=1e-4)
        assert after[index].item() == pytest.approx(1 / (1 + sum(marks[index + 1 :])), abs=1e-4)


@pytest.mark.parametrize("part", [EventOrder, EventAttention])
def test_padding_events_change_nothing(part):
    torch.manual_seed(0)
    layer = part(8)
    hidden, mask = torch.randn(2, 6, 8), torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    together = layer(hidden, mask)
    torch.testing.assert_close(together[1, :4], layer(hidden[1:, :4], mask[1:, :4])[0])
    other = hidden.clone()
    other[1, 4:] = 7
    torch.testing.assert_close(layer(other, mask)[1, :4], together[1, :4])


def test_the_order_of_events_matters_to_their_counts_alone():
    """Attention takes the events as a set; what comes before and after is what counts say."""
    torch.manual_seed(0)
    hidden, mask = torch.randn(1, 6, 8), torch.ones(1, 6, dtype=torch.bool)
    attention, order = EventAttention(8), EventOrder(8)
    torch.testing.assert_close(attention(hidden.flip(1), mask).flip(1), attention(hidden, mask))
    assert not torch.allclose(order(hidden.flip(1), mask).flip(1), order(hidden, mask), atol=1e-3)
