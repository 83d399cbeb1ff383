"""`dynfocus batch`: the questions of a table about many videos, on this machine or on a Ray cluster."""

import functools
import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from dynfocus.checkpoints import DEFAULT_MODEL, find_model

from .loading import check_model_name, check_sampling, find_dtype, load_pipeline, note_demo
from .options import (
    AnswerOption,
    CoarseOption,
    Decoder,
    DecoderOption,
    DeviceOption,
    DtypeOption,
    DualEncoderOption,
    FpsOption,
    FramesOption,
    ModelOption,
    ProcessorOption,
    RevisionOption,
    RuleOption,
    ServerOption,
    TokensOption,
    Truncated,
    TruncatedOption,
    TrustOption,
    VerboseOption,
    setup_fields,
)
from .terminal import UserError, quiet, user_errors

# Local names are looked up for so many videos, before anything starts.
_LOOKED_FOR = 100
_SHOWN_ERRORS = 3


@dataclass(frozen=True, kw_only=True)
class Request:
    """
    The command line.

    Args:
        sampling: `fps`, `max_frames`, `decoder` and `on_truncated`, `None` for those not given.
        adoption: `dual_encoder` and `coarse` for a stock model, and `server` and `processor` for a model on a server.
    """

    table: str
    out: Path
    media_root: str | None
    address: str | None
    actors: int | None
    gpus_per_actor: float | None
    states: bool
    retry_errors: bool
    model: str | None
    sampling: dict[str, Any]
    max_visual_tokens: int | None
    rule: str | None
    max_new_tokens: int
    adoption: dict[str, Any]
    device: str | None
    dtype: str | None
    revision: str | None
    trust_remote_code: bool
    verbose: bool


def batch(
    table: Annotated[
        str,
        typer.Argument(
            help="Table with the columns video and question (or questions, lists): parquet, CSV, TSV or JSONL.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder of the answers; the same command continues it.", show_default=False),
    ],
    model: ModelOption = None,
    media_root: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder of relative paths of videos.", show_default="that of the table"),
    ] = None,
    states: Annotated[
        bool, typer.Option("--states", help="Also keep the state of each video, for questions later.")
    ] = False,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Also do the videos again whose rows have an error.")
    ] = False,
    address: Annotated[
        str | None,
        typer.Option(help="A running Ray cluster to join: auto, or HOST:PORT.", show_default="this machine"),
    ] = None,
    actors: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that hold the model.", show_default="one a GPU, or one for 4 processors"),
    ] = None,
    gpus_per_actor: Annotated[
        float | None, typer.Option(help="GPUs of each actor; 0.25 means that four share one.", show_default="1")
    ] = None,
    max_visual_tokens: TokensOption = None,
    rule: RuleOption = None,
    dual_encoder: DualEncoderOption = None,
    coarse: CoarseOption = None,
    server: ServerOption = None,
    processor: ProcessorOption = None,
    fps: FpsOption = None,
    max_frames: FramesOption = None,
    max_new_tokens: AnswerOption = 64,
    on_truncated: TruncatedOption = Truncated.error,
    decoder: DecoderOption = Decoder.auto,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Answer a table of questions about many videos, with Ray. After any interruption, the same command continues."""
    fields = setup_fields(locals())
    # It is not a setting of reading.
    del fields["sampling"]["max_visual_tokens"]
    with user_errors(verbose):
        run(
            Request(
                table=table,
                out=out,
                media_root=media_root,
                address=address,
                actors=actors,
                gpus_per_actor=gpus_per_actor,
                states=states,
                retry_errors=retry_errors,
                max_visual_tokens=max_visual_tokens,
                **fields,
            )
        )


def run(request: Request) -> None:
    """Answer what is left, and print a summary. Ends with exit code 130 after Ctrl-C, and 1 if no row is answered."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        counts = _run(request, console)
    except KeyboardInterrupt:
        console.print(Text(f"Stopped. The same command continues in {request.out}."))
        raise typer.Exit(130) from None
    from dynfocus.processing.clock import counted

    answered, total = counts.pop("", 0), sum(counts.values())
    total += answered
    print(f"{request.out / 'answers'}: {answered:,} of {counted(total, 'row')} answered.")
    if failed := total - answered:
        verb = "has" if failed == 1 else "have"
        print(f"{counted(failed, 'row')} {verb} an error; --retry-errors tries again. The most frequent:")
        for error, count in counts.most_common(_SHOWN_ERRORS):
            print(f"  {count:,} × {error}")
    if not answered:
        raise UserError("No row was answered.")


def _run(request: Request, console: Console) -> Counter[str]:
    """Does the work; returns how many rows have each error, `""` for answered ones."""
    _check(request)
    with quiet(request.verbose):
        from dynfocus.eval.actors import Cluster, plan_places
        from dynfocus.eval.batch import Asking, BatchFolder, StopBatch
        from dynfocus.eval.progress import VideosProgress
        from dynfocus.processing.clock import counted

        cluster = Cluster(request.address, request.verbose)
        videos = _videos(request)
        asking = Asking(
            {name: value for name, value in request.sampling.items() if value is not None},
            request.max_visual_tokens,
            request.rule,
            request.max_new_tokens,
        )
        folder = BatchFolder(
            request.out, videos, _settings(request, videos), request.states, retry_errors=request.retry_errors
        )
        note_demo(request.model, "batch TABLE --out DIR")
        if folder.is_continued and folder.remaining:
            done = len(videos) - len(folder.remaining)
            console.print(Text(f"Continuing in {request.out}: {done:,} of {counted(len(videos), 'video')} finished."))
        if folder.remaining:
            with cluster, VideosProgress(len(folder.remaining), len(videos) - len(folder.remaining)) as progress:
                places = plan_places(
                    cluster.nodes(),
                    request.actors,
                    request.gpus_per_actor,
                    use_gpus=request.device is None or not request.device.startswith("cpu"),
                )
                found = cluster.answers(
                    folder.remaining,
                    places,
                    _loader(request),
                    asking,
                    state_file=folder.state_file,
                    on_record=folder.claim_record,
                    on_wait=progress.wait,
                )
                try:
                    for video, rows in found:
                        folder.add(video, rows)
                        progress.update(len(rows), sum(bool(row["error"]) for row in rows))
                except StopBatch as error:
                    raise UserError(f"{error}; the same command continues in {request.out}.") from error
        counts = folder.counts()
        folder.close()
    return counts


def _check(request: Request) -> None:
    """Raises a `UserError` for mistakes that can be found before anything is read or loaded."""
    from .ask import check_rule

    check_sampling(request.sampling)
    check_rule(request.rule)
    if request.max_visual_tokens is not None and request.max_visual_tokens < 1:
        raise UserError(f"--max-visual-tokens {request.max_visual_tokens}: must be above 0.")
    if request.model is not None and request.adoption["server"] is None:
        check_model_name(request.model)
    if request.dtype is not None:
        find_dtype(request.dtype)


def _videos(request: Request) -> list[Any]:
    """The videos of the table with their questions."""
    import datasets

    from dynfocus.eval.batch import videos_of
    from dynfocus.training.rows import Source, open_table

    if not request.verbose:
        datasets.disable_progress_bars()
    rows, root = open_table(Source(request.table, media_root=request.media_root))
    try:
        videos = videos_of(rows, None if root is None else os.path.abspath(root))
    except ValueError as error:
        raise UserError(f"{request.table}: {error}") from error
    if request.address is None:
        _check_videos(videos, request, root)
    return videos


def _check_videos(videos: Sequence[Any], request: Request, root: str | None) -> None:
    """Raises a `UserError` if none of the first videos exists, so that the folder must be wrong."""
    from dynfocus.processing.reading.sources import existing_path

    local = [video for video in videos if video.path and "://" not in video.path][:_LOOKED_FOR]
    if (
        local
        and len(local) == len(videos[:_LOOKED_FOR])
        and not any(os.path.exists(existing_path(video.path)) for video in local)
    ):
        what = f"none of its first {len(local)} videos exists" if len(local) > 1 else "its video does not exist"
        raise UserError(
            f"{request.table}: {what} in {root} ({local[0].name}, …); name the folder of the videos with --media-root."
        )


def _settings(request: Request, videos: list[Any]) -> dict[str, Any]:
    """What determines the content of the folder, and how it was requested."""
    from dynfocus.eval.batch import table_settings
    from dynfocus.eval.provenance import package_versions, weights_hash

    served = request.adoption["server"] is not None
    return {
        "table": table_settings(videos),
        "model": {
            "id": request.model or DEFAULT_MODEL,
            "revision": request.revision,
            "weights": None if served else weights_hash(find_model(request.model)),
        },
        "answering": {
            **request.sampling,
            **request.adoption,
            "max_visual_tokens": request.max_visual_tokens,
            "rule": request.rule,
            "max_new_tokens": request.max_new_tokens,
            "dtype": request.dtype,
        },
        "versions": package_versions(),
        "media_root": request.media_root,
        "command": shlex.join(["dynfocus", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _loader(request: Request) -> Any:
    """`load_pipeline` for the processes of the actors, which run in other folders."""

    def absolute(name: str | None) -> str | None:
        return os.path.abspath(name) if name is not None and os.path.isdir(name) else name

    adoption = {**request.adoption}
    for name in ("dual_encoder", "processor"):
        adoption[name] = absolute(adoption[name])
    model = request.model if adoption["server"] is not None else absolute(request.model)
    return functools.partial(
        _load_quietly,
        (model, request.device, request.dtype, request.revision, request.trust_remote_code, adoption),
        request.verbose,
    )


def _load_quietly(options: tuple[Any, ...], verbose: bool) -> Any:
    with quiet(verbose):
        return load_pipeline(*options)


__all__ = ["Request", "batch", "run"]
