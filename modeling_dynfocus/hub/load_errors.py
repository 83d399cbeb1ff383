"""
Why a checkpoint cannot be loaded, in one sentence instead of the long messages of transformers, huggingface_hub and
torch.
"""

import errno
import os
import re
from collections.abc import Iterator

from huggingface_hub import errors


def unusable(subject: str, error: Exception, revision: str | None = None) -> Exception:
    """
    An error of the same family with one sentence.

    Args:
        subject: the beginning of the sentence, such as "The vision model 'NAME' cannot be used".
        error: what loading raised.
        revision: the requested revision.

    Returns:
        `OSError`, `ImportError` or `ValueError`, to be raised.
    """
    reason = why_not_loaded(error, revision)
    if reason is None:
        reason = " ".join(str(error).strip().partition("\n")[0].split()).rstrip(".") or type(error).__name__
        if isinstance(error, OSError):
            reason += "; give a Hub id or a folder with all its files, weights as safetensors"
    for family in (OSError, ImportError):
        if isinstance(error, family):
            return family(f"{subject}: {reason}.")
    return ValueError(f"{subject}: {reason}.")


def why_not_loaded(error: Exception, revision: str | None = None) -> str | None:
    """Why a checkpoint cannot be loaded, to follow its name and a colon; `None` if the cause is unknown."""
    causes = list(_causes(error))

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    text = str(error)
    # The pipeline writes the tracebacks of failures into the text of an error that has no cause.
    if os.strerror(errno.ENOSPC) in text:
        return "the disk is full: make room, or set HF_HOME to a folder on another disk"
    if "Invalid credentials in Authorization header" in text:
        return "the Hub does not accept your token: renew it with `hf auth login`, or unset HF_TOKEN"
    if caused_by(errors.GatedRepoError):
        return "its owner has to grant you access on the Hub first (and `hf auth login`)"
    if caused_by(errors.RevisionNotFoundError):
        return f"it has no revision {revision!r} on the Hub"
    if caused_by(errors.RepositoryNotFoundError, errors.HFValidationError):
        return "it is neither a local folder nor a model on the Hub (if private: `hf auth login`)"
    if caused_by(errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError):
        return "there is no such local folder, and the Hub cannot be reached"
    lacks_a_file = caused_by(errors.EntryNotFoundError) and "safetensors" not in text
    if lacks_a_file or text.startswith("Unrecognized model in"):
        return "it has no config.json with a `model_type`, so it is not a saved model"
    if "is not a valid JSON file" in text:
        return "its config.json is not valid JSON: save the model again"
    if other := re.search(r"has model type `(.+?)` but Transformers does not recognize", text):
        return f"it is a {other[1]} model, which this version of transformers does not support"
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


__all__ = ["unusable", "why_not_loaded"]
