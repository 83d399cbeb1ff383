"""Settings of `generate` that cannot be meant: numbers out of range, of another type, names that do not exist."""

import difflib
import math
import numbers
from collections.abc import Collection, Mapping
from typing import Any

# No model of today has more positions.
_MOST_TOKENS = 1 << 24
_MOST_BEAMS = 256
_LARGEST_SCALE = 1e4
# Name → least and most.
_COUNTS = {
    "max_new_tokens": (1, _MOST_TOKENS),
    "max_length": (1, _MOST_TOKENS),
    "min_new_tokens": (0, _MOST_TOKENS),
    "min_length": (0, _MOST_TOKENS),
    "num_beams": (1, _MOST_BEAMS),
    "num_beam_groups": (1, _MOST_BEAMS),
    "num_return_sequences": (1, 1),
    "top_k": (0, _MOST_TOKENS),
    "no_repeat_ngram_size": (0, _MOST_TOKENS),
    "encoder_no_repeat_ngram_size": (0, _MOST_TOKENS),
}
_SHARES = ("min_p", "epsilon_cutoff", "eta_cutoff")
_SHARES_ABOVE_0 = ("top_p", "typical_p")
_ABOVE_0 = ("repetition_penalty", "encoder_repetition_penalty", "max_time")
_SCALES = ("length_penalty", "guidance_scale", "diversity_penalty")
_SWITCHES = ("do_sample", "use_cache", "renormalize_logits", "remove_invalid_values")
_TOKENS = ("eos_token_id", "pad_token_id", "bos_token_id", "suppress_tokens", "begin_suppress_tokens")


def check_generation(
    settings: Mapping[str, Any],
    *,
    vocab_size: int | None = None,
    positions: int | None = None,
    where: str = "",
) -> None:
    """
    Args:
        settings: of `generate`, by name; `None` counts as not given.
        vocab_size: of the model, for the ids of tokens.
        positions: of the model, the most tokens that an answer can have.
        where: where they come from, to follow a name in a message.

    Raises:
        `ValueError`: for the first one that cannot be meant; the message names it, its value, and what it may be.
    """
    for name, value in settings.items():
        if value is None:
            continue
        if (wanted := _wanted(name, value, bool(settings.get("do_sample")), vocab_size)) is not None:
            raise ValueError(f"`{name}`{where} is {_shown(value)}: it must be {wanted}.")
    if positions is not None and (settings.get("max_new_tokens") or 0) > positions:
        raise ValueError(
            f"`max_new_tokens`{where} is {settings['max_new_tokens']:,}, and the model has {positions:,} positions "
            "for the prompt and the answer: ask for less."
        )
    least, most = settings.get("min_new_tokens"), settings.get("max_new_tokens")
    if least is not None and most is not None and least > most:
        raise ValueError(f"`min_new_tokens`{where} is {least}, more than `max_new_tokens`, {most}.")


def check_names(settings: Collection[str], known: Collection[str], where: str) -> None:
    """Raises a `ValueError` for a name that is a misspelled one; other unknown names are notes of other programs."""
    for name in settings:
        if name not in known and (meant := difflib.get_close_matches(name, known, 1, 0.85)):
            raise ValueError(f"`{name}`{where} is not known: is `{meant[0]}` meant?")


def _wanted(name: str, value: Any, is_sampled: bool, vocab_size: int | None) -> str | None:
    """What a setting must be, if it is not."""
    if name in _COUNTS:
        least, most = _COUNTS[name]
        words = f"{least}" if least == most else f"a whole number from {least} to {most:,}"
        return None if _is_whole(value) and least <= value <= most else words
    if name == "temperature":
        # 0 is what many write for no sampling.
        is_right = _is_number(value) and (value > 0 or (value == 0 and not is_sampled))
        return None if is_right else "a number above 0"
    if name in _SHARES or name in _SHARES_ABOVE_0:
        is_right = _is_number(value) and 0 <= value <= 1 and (value > 0 or name in _SHARES)
        return None if is_right else f"a number {'from' if name in _SHARES else 'above'} 0 to 1"
    if name in _ABOVE_0:
        return None if _is_number(value) and value > 0 else "a number above 0"
    if name in _SCALES:
        return None if _is_number(value) and abs(value) <= _LARGEST_SCALE else f"a number up to {_LARGEST_SCALE:,.0f}"
    if name in _SWITCHES:
        return None if isinstance(value, bool) else "True or False"
    if name in _TOKENS:
        ids = value if isinstance(value, (list, tuple)) else [value]
        if all(_is_whole(one) and 0 <= one and (vocab_size is None or one < vocab_size) for one in ids):
            return None
        return "ids of tokens" if vocab_size is None else f"ids of the model's tokens, 0 to {vocab_size - 1:,}"
    return None


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"


__all__ = ["check_generation", "check_names"]
