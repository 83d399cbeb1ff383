"""`dynfocus export` and `dynfocus push`: write a complete Hub folder of a model, and upload it."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import errors
from huggingface_hub.utils import validate_repo_id
from rich.console import Console
from rich.text import Text

from dynfocus.checkpoints import DEFAULT_MODEL, find_model

from .loading import check_kind, check_model_name, loading_errors
from .terminal import UserError, quiet, spinner

#: Base class of errors such as a lost connection; the HTTP library depends on the version of huggingface_hub.
_HTTP_ERROR: type[BaseException] = errors.HfHubHTTPError.__bases__[0]


def export(out: Path, model: str | None, revision: str | None, max_shard_size: str, verbose: bool) -> None:
    """Write the folder, and print how to load it."""
    from dynfocus.hub.upload import export_model

    source = _source(model)
    with quiet(verbose), _helpful(source, revision), spinner("Writing the folder"):
        folder = export_model(source, out, revision=revision, max_shard_size=max_shard_size)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    size = sum(path.stat().st_size for path in files)
    console = Console(soft_wrap=True, highlight=False)
    console.print(Text(f"Wrote {model or DEFAULT_MODEL} to {folder}: {len(files)} files, {size / 1e6:.1f} MB."))
    console.print("Ask it, or put it on the Hub:")
    quoted = shlex.quote(str(folder))
    console.print(Text(f'  dynfocus ask VIDEO "QUESTION" --model {quoted}', style="bold"))
    console.print(Text(f"  dynfocus push USER/NAME --model {quoted}", style="bold"))


def export_space(out: Path, model: str | None, revision: str | None) -> None:
    """Write the folder of a Space, and print how to run and upload it."""
    from .space import write_space

    with spinner("Writing the folder"):
        folder = write_space(out, model, revision)
    quoted = shlex.quote(str(folder))
    console = Console(soft_wrap=True, highlight=False)
    console.print(Text(f"Wrote a Space for {model or DEFAULT_MODEL} to {folder}. Try it, or put it on the Hub:"))
    console.print(Text(f"  (cd {quoted} && python app.py)", style="bold"))
    console.print(Text(f"  hf upload USER/NAME {quoted} --repo-type space", style="bold"))


def push(
    repo_id: str, model: str | None, revision: str | None, private: bool | None, message: str | None, verbose: bool
) -> None:
    """Upload the model, and print the page's address and how to load it."""
    from dynfocus.hub.upload import push_model

    source = _source(model)
    try:
        validate_repo_id(repo_id)
    except errors.HFValidationError as error:
        raise UserError(f"{repo_id}: is not a name on the Hub; names look like user/name.") from error
    with quiet(verbose), _helpful(source, revision), _helpful_when_refused(repo_id), spinner("Uploading"):
        pushed = push_model(source, repo_id, revision=revision, private=private, message=message)
    console = Console(soft_wrap=True, highlight=False)
    console.print(Text(pushed.url, style="bold"))
    console.print("Load exactly this version:")
    console.print(
        Text(
            f'  pipeline("video-qa", model="{pushed.repo_id}", revision="{pushed.commit}", trust_remote_code=True)',
            style="bold",
        )
    )


def _source(model: str | None) -> str:
    source = find_model(model)
    check_model_name(source)
    return source


@contextmanager
def _helpful(model: str, revision: str | None) -> Iterator[None]:
    """Turns errors about the model or the target folder into one sentence."""
    from transformers import AutoConfig

    import dynfocus  # noqa: F401  # registers its classes

    with loading_errors(model, revision):
        check_kind(model, AutoConfig.from_pretrained(model, revision=revision))
        try:
            yield
        except FileExistsError as error:
            raise UserError(str(error)) from error


@contextmanager
def _helpful_when_refused(repo_id: str) -> Iterator[None]:
    """Turns errors of the upload into one sentence that says what to do."""
    try:
        yield
    except errors.LocalTokenNotFoundError as error:
        raise UserError("You are not logged in to the Hub: `hf auth login` with a token that may write.") from error
    except errors.HfHubHTTPError as error:
        raise UserError(_why_refused(repo_id, error)) from error
    except _HTTP_ERROR as error:
        raise UserError(
            f"{repo_id}: the connection to the Hub failed before anything was committed; run the same command again."
        ) from error


def _why_refused(repo_id: str, error: errors.HfHubHTTPError) -> str:
    code = error.response.status_code if error.response is not None else None
    if code == 401:
        return "The Hub does not accept your token: `hf auth login` with one that may write."
    if code == 403:
        return f"{repo_id}: your token may not write there; log in with one that may, or take another name."
    why = " ".join(str(part) for part in (code, error.server_message) if part)
    return f"{repo_id}: the Hub refused the upload ({why}) and committed nothing; run the same command again."


__all__ = ["export", "export_space", "push"]
