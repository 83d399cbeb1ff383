"""The fingerprint of a state: a short text for the model and the pixel settings that encoded it."""

import base64
import hashlib
import json
from typing import Any

import torch
from torch import nn

_NUM_SAMPLES = 256
# Casts to half precision and back move a weight by half a step of bfloat16 at most; float16 loses the smallest ones.
_RELATIVE, _ABSOLUTE = 2.0**-8, 1e-6


def settings_digest(settings: Any) -> str:
    """A hash of anything that JSON can hold, as 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]


def model_fingerprint(weights: nn.Module, settings: Any) -> str | None:
    """
    `settings:samples` of a module and its settings. It does not depend on the precision of the weights.

    A hash of weights would change with float16, so means of some weights of each tensor, and of their magnitudes, are
    kept. `None` if the weights are on other processes or on disk.
    """
    tensors = [weight.detach() for _, weight in sorted(weights.named_parameters())]
    if any(weight.is_meta or not weight.is_floating_point() or type(weight) is not torch.Tensor for weight in tensors):
        return None
    means = []
    for weight in tensors:
        # An odd stride, so that the weights are not all of one column.
        some = weight.flatten()[:: max(1, weight.numel() // _NUM_SAMPLES) | 1].float()
        means += [some.mean(), some.abs().mean()]
    # Collected on the first one's device: moving each one to the CPU would wait for a GPU each time.
    together = torch.stack([mean.to(means[0].device) for mean in means]).nan_to_num().cpu()
    text = base64.b64encode(together.numpy().tobytes()).decode()
    return f"{settings_digest(settings)}:{text}"


def with_pixel_settings(fingerprint: str | None, pixels: str | None) -> str | None:
    """The fingerprints of a model and of pixel settings as one; either may be unknown."""
    return fingerprint if pixels is None else f"{fingerprint or ':'}:{pixels}"


def is_fingerprint(text: Any) -> bool:
    """Whether a text has the form of a fingerprint (of a model, of pixel settings or of both)."""
    if not isinstance(text, str) or not 1 <= text.count(":") <= 2:
        return False
    try:
        return len(base64.b64decode(text.split(":")[1], validate=True)) % 8 == 0
    except ValueError:
        return False


def difference(first: str | None, second: str | None, *, is_dual: bool = False) -> str | None:
    """
    What differs, in words; `None` if nothing differs. Parts that are unknown on one side are not compared.

    Args:
        is_dual: whether the fingerprints are of dual encoders.
    """
    settings, tower = (
        ("tokens or length of texts", "dual encoder")
        if is_dual
        else ("settings of the vision tower or of the grouping", "vision tower")
    )
    if first is None or second is None or first == second:
        return None
    ones, others = ((text.split(":") + ["", ""])[:3] for text in (first, second))
    if ones[0] and others[0]:
        if ones[0] != others[0]:
            return settings
        if not _same_weights(ones[1], others[1]):
            return f"weights of the {tower}"
    if ones[2] and others[2] and ones[2] != others[2]:
        return "pixel settings (size, crop, resampling or normalisation)"
    return None


def _same_weights(first: str, second: str) -> bool:
    ones, others = (
        torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.float32).unflatten(0, (-1, 2))
        for text in (first, second)
    )
    if ones.shape != others.shape:
        return False
    return bool(((ones - others).abs() <= _RELATIVE * ones[:, 1:].abs() + _ABSOLUTE).all())


__all__ = ["difference", "is_fingerprint", "model_fingerprint", "settings_digest", "with_pixel_settings"]
