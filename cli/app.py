"""
Arguments and options of the `dynfocus` command. The commands are in the other files, which are imported when needed.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from .batch import batch
from .examples import (
    ASK_EXAMPLES,
    BATCH_EXAMPLES,
    CHAT_EXAMPLES,
    COMPARE_EXAMPLES,
    DEMO_EXAMPLES,
    ENCODE_EXAMPLES,
    EVAL_EXAMPLES,
    EXAMPLES,
    EXPORT_EXAMPLES,
    FIND_EXAMPLES,
    PUSH_EXAMPLES,
    REPORT_EXAMPLES,
    SERVE_EXAMPLES,
    SYNTH_EXAMPLES,
    TRAIN_EXAMPLES,
)
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
    Split,
    TokensOption,
    Truncated,
    TruncatedOption,
    TrustOption,
    VerboseOption,
    VideoArgument,
    setup_fields,
)
from .terminal import UserError, print_error, user_errors
from .wording import looks_like_option

app = typer.Typer(
    help="Video question answering that looks closely only at the frames that matter for the question.",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


# Groups of commands in the help.
_ASK, _MEASURE, _SHARE = "Ask about videos", "Train and evaluate", "Share"
# A group of options of one command.
_LIMITS = "Limits"


def _print_version(wanted: bool) -> None:
    if wanted:
        from dynfocus import __version__

        typer.echo(f"dynfocus {__version__}")
        raise typer.Exit


def _event_range(text: str) -> tuple[int, int]:
    """`"3-6"` as `(3, 6)`, `"4"` as `(4, 4)`."""
    fewest, dash, most = text.partition("-")
    if not fewest.isdecimal() or not (most.isdecimal() or not dash):
        raise typer.BadParameter(f"{text!r} is not a number of events such as 4, nor a range such as 3-6.")
    return int(fewest), int(most or fewest)


@app.callback(invoke_without_command=True, epilog=EXAMPLES)
def _command(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    # A user of the command line may read from any address; a library in a server gets addresses from other people.
    os.environ.setdefault("DYNFOCUS_ALLOW_PRIVATE_ADDRESSES", "1")
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(epilog=ASK_EXAMPLES, rich_help_panel=_ASK)
def ask(
    video: VideoArgument,
    question: Annotated[
        list[str], typer.Argument(metavar="QUESTION", help="The question about the video.", show_default=False)
    ],
    model: ModelOption = None,
    plot: Annotated[Path | None, typer.Option(help="Draw key frames, and scores over time, into this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
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
    """Answer a question about a video, and print its key frames."""
    fields = setup_fields(locals())
    with user_errors(verbose):
        from . import ask as command

        command.run(
            command.Request(
                video=video,
                # A question without quotes comes as its words.
                question=" ".join(question),
                plot=plot,
                as_json=as_json,
                **fields,
            )
        )


@app.command(epilog=CHAT_EXAMPLES, rich_help_panel=_ASK)
def chat(
    video: VideoArgument,
    model: ModelOption = None,
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
    """Encode a video once, then answer one question after another."""
    fields = setup_fields(locals())
    with user_errors(verbose):
        from . import chat as command
        from .ask import Setup

        command.run(Setup(video=video, **fields))


@app.command(epilog=DEMO_EXAMPLES, rich_help_panel=_ASK)
def demo(
    model: ModelOption = None,
    host: Annotated[
        str, typer.Option(metavar="NAME", help="Address to serve at; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="Port to serve at.")] = 7860,
    max_upload: Annotated[int, typer.Option(min=1, metavar="MB", help="Largest video to upload.")] = 500,
    max_visual_tokens: TokensOption = None,
    rule: RuleOption = None,
    dual_encoder: DualEncoderOption = None,
    coarse: CoarseOption = None,
    server: ServerOption = None,
    processor: ProcessorOption = None,
    fps: FpsOption = None,
    max_frames: FramesOption = None,
    max_new_tokens: AnswerOption = 64,
    on_truncated: TruncatedOption = Truncated.warn,
    decoder: DecoderOption = Decoder.auto,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Serve a page to ask about videos: upload one, see answer, key frames and timeline."""
    fields = setup_fields(locals())
    with user_errors(verbose):
        from . import demo as command

        command.run(command.Request(video="", host=host, port=port, max_upload=max_upload, **fields))


@app.command(epilog=SERVE_EXAMPLES, rich_help_panel=_ASK)
def serve(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A folder or a Hub id.", show_default="demo model")
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="NAME", help="Address to listen on; 0.0.0.0 for all networks.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The model's name for clients.", show_default="MODEL")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", envvar="DYNFOCUS_API_KEY", help="What clients must send.", show_default=False),
    ] = None,
    allow_files: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Read file:// addresses in this folder; repeatable.", show_default=False),
    ] = None,
    allow_private_addresses: Annotated[
        bool, typer.Option("--allow-private-addresses", help="Read videos from this machine and its networks.")
    ] = False,
    max_body: Annotated[
        int, typer.Option(metavar="MIB", min=1, help="Largest request.", rich_help_panel=_LIMITS)
    ] = 64,
    max_download: Annotated[
        int, typer.Option(metavar="MIB", min=1, help="Largest video from an address.", rich_help_panel=_LIMITS)
    ] = 2048,
    max_waiting: Annotated[
        int, typer.Option(metavar="N", min=0, help="Largest number of waiting requests.", rich_help_panel=_LIMITS)
    ] = 32,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="For a request, with waiting.", rich_help_panel=_LIMITS)
    ] = 600.0,
    keep_videos: Annotated[
        int, typer.Option(metavar="N", min=0, help="Encoded videos that are kept.", rich_help_panel=_LIMITS)
    ] = 16,
    keep_memory: Annotated[
        int, typer.Option(metavar="MIB", min=0, help="Memory for them.", rich_help_panel=_LIMITS)
    ] = 2048,
    max_visual_tokens: TokensOption = None,
    rule: RuleOption = None,
    dual_encoder: DualEncoderOption = None,
    coarse: CoarseOption = None,
    fps: FpsOption = None,
    max_frames: FramesOption = None,
    max_new_tokens: AnswerOption = 512,
    on_truncated: TruncatedOption = Truncated.error,
    decoder: DecoderOption = Decoder.auto,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Answer requests in the form of OpenAI's chat completions, with videos, until Ctrl-C."""
    fields = setup_fields({**locals(), "server": None, "processor": None})
    with user_errors(verbose):
        try:
            from . import serve as command
            from .ask import Setup
            from .chat_completions import Limits
        except ImportError as error:
            if error.name not in ("fastapi", "uvicorn", "starlette", "pydantic"):
                raise
            raise UserError(f"A server needs the package {error.name}: pip install 'dynfocus[serve]'.") from error
        sampling = {name: value for name, value in fields["sampling"].items() if name != "max_visual_tokens"}
        command.run(
            command.Request(
                host=host,
                port=port,
                name=name,
                setup=Setup(video="", **fields),
                limits=Limits(
                    api_key=api_key,
                    folders=tuple(folder.resolve() for folder in allow_files or ()),
                    private_addresses=allow_private_addresses,
                    max_body=max_body << 20,
                    max_download=max_download << 20,
                    max_waiting=max_waiting,
                    timeout=timeout,
                    max_new_tokens=max_new_tokens,
                    keep_videos=keep_videos,
                    keep_bytes=keep_memory << 20,
                    sampling={name: value for name, value in sampling.items() if value is not None},
                    max_visual_tokens=max_visual_tokens,
                    rule=rule,
                ),
            )
        )


@app.command(epilog=ENCODE_EXAMPLES, rich_help_panel=_ASK)
def encode(
    video: Annotated[str, typer.Argument(help="A video file, or its URL.", show_default=False)],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File of the state, such as lecture.safetensors.", show_default=False)
    ],
    model: ModelOption = None,
    fps: FpsOption = None,
    num_frames: Annotated[
        int | None, typer.Option(help="Frames to look at, evenly spread, instead of --fps.", show_default=False)
    ] = None,
    max_frames: FramesOption = None,
    key_frames: Annotated[bool, typer.Option("--key-frames", help="Sample the codec's key frames instead.")] = False,
    half: Annotated[bool, typer.Option("--half", help="Keep features in half precision (float16).")] = False,
    on_truncated: TruncatedOption = Truncated.error,
    force: Annotated[bool, typer.Option("--force", help="Overwrite another state.")] = False,
    dual_encoder: DualEncoderOption = None,
    server: ServerOption = None,
    decoder: DecoderOption = Decoder.auto,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Encode a video once, for questions later. An interrupted encoding continues where it stopped."""
    with user_errors(verbose):
        from . import encode as command

        command.run(
            command.Request(
                video=video,
                out=out,
                model=model,
                sampling={
                    "fps": fps,
                    "num_frames": num_frames,
                    "max_frames": max_frames,
                    "sampling": "key_frames" if key_frames else None,
                    "decoder": decoder.value,
                    "on_truncated": on_truncated.value,
                },
                half=half,
                force=force,
                adoption={"dual_encoder": dual_encoder, "server": server},
                device=device,
                dtype=dtype,
                revision=revision,
                trust_remote_code=trust_remote_code,
                verbose=verbose,
            )
        )


app.command(epilog=BATCH_EXAMPLES, rich_help_panel=_ASK)(batch)


@app.command(epilog=FIND_EXAMPLES, rich_help_panel=_ASK)
def find(
    video: VideoArgument,
    text: Annotated[
        list[str], typer.Argument(metavar="TEXT", help="A description of what the moments show.", show_default=False)
    ],
    top: Annotated[int, typer.Option(min=1, help="Number of moments.")] = 5,
    clips: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write a clip of each moment into this folder.")
    ] = None,
    dual_encoder: Annotated[
        str | None,
        typer.Option(
            help="Dual encoder that compares frames and text: a Hub id, a folder, or open_clip:NAME/TAG.",
            show_default="google/siglip2-base-patch16-224",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
    fps: FpsOption = None,
    max_frames: FramesOption = None,
    decoder: DecoderOption = Decoder.auto,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Find the moments of a video that fit a text, with a dual encoder alone."""
    with user_errors(verbose):
        from . import find as command

        command.run(
            command.Request(
                video=video,
                text=" ".join(text),
                top=top,
                clips=clips,
                dual_encoder=dual_encoder,
                as_json=as_json,
                sampling={"fps": fps, "max_frames": max_frames, "decoder": decoder.value},
                device=device,
                dtype=dtype,
                verbose=verbose,
            )
        )


@app.command(epilog=SYNTH_EXAMPLES, rich_help_panel=_MEASURE)
def synth(
    out: Annotated[
        Path, typer.Option(help="A new or empty folder, or an unfinished set to continue.", show_default=False)
    ],
    videos: Annotated[int, typer.Option(min=1, help="Number of videos.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Random seed; the same seed gives the same set.")] = 0,
    frames: Annotated[int, typer.Option(min=1, help="Length of a video in seconds, at one frame a second.")] = 32,
    events: Annotated[
        str | None,
        typer.Option(
            metavar="FEWEST-MOST",
            help="Number of events in a video.",
            show_default="by length: 5-10 in 32 s, 10-20 in 128 s",
        ),
    ] = None,
    split: Annotated[
        Split, typer.Option(help="The test split has textures and objects that the train split does not have.")
    ] = Split.test,
    questions_per_kind: Annotated[int, typer.Option(min=1, help="Questions of each kind for each video.")] = 1,
    kinds: Annotated[
        str | None,
        typer.Option(
            metavar="KIND,KIND,…",
            help="Kinds of questions; the demo checkpoint has not learned `object`.",
            show_default="all but `object` and `unanswerable`",
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show where an error comes from.")] = False,
) -> None:
    """Generate a set of synthetic videos, with questions and their answers."""
    num_events = None if events is None else _event_range(events)
    with user_errors(verbose):
        from . import synth as command

        command.run(out, seed, videos, frames, split.value, questions_per_kind, num_events, kinds)


@app.command(epilog=TRAIN_EXAMPLES, rich_help_panel=_MEASURE)
def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe: a YAML file, or one of align, instruct, lora, full_fsdp2, full_zero3 and tiny.",
            show_default=False,
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Settings that replace those of the recipe.", show_default=False
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Read rows, report lengths and memory, and stop before training.")
    ] = False,
    check_rows: Annotated[int, typer.Option(min=1, help="Rows that --check reads.")] = 100,
    show: Annotated[bool, typer.Option("--show", help="Print the recipe, as a start for your own.")] = False,
    accelerate: Annotated[
        bool, typer.Option("--accelerate", help="Print the path of accelerate's settings for the recipe.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show where an error comes from.")] = False,
) -> None:
    """Fine-tune a model on your videos. An interrupted run continues where it stopped."""
    with user_errors(verbose):
        from . import train as command

        if show or accelerate:
            command.show(recipe, overrides or [], accelerate)
        else:
            command.run(recipe, overrides or [], check, check_rows)


@app.command(epilog=EXPORT_EXAMPLES, rich_help_panel=_SHARE)
def export(
    out: Annotated[Path, typer.Argument(help="A new or empty folder.", show_default=False)],
    model: ModelOption = None,
    revision: RevisionOption = None,
    max_shard_size: Annotated[str, typer.Option(help="Largest size of a weight file.")] = "5GB",
    space: Annotated[bool, typer.Option("--space", help="Write a Space with the page of dynfocus demo.")] = False,
    verbose: VerboseOption = False,
) -> None:
    """Write a Hub folder with weights, settings, code and model card. It loads without this package."""
    with user_errors(verbose):
        from . import hub as command

        if space:
            command.export_space(out, model, revision)
            return
        command.export(out, model, revision, max_shard_size, verbose)


@app.command(epilog=PUSH_EXAMPLES, rich_help_panel=_SHARE)
def push(
    repo_id: Annotated[
        str,
        typer.Argument(
            metavar="USER/NAME", help="The repository, which is created if it does not exist.", show_default=False
        ),
    ],
    model: ModelOption = None,
    revision: RevisionOption = None,
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", help="Visibility of a new repository.", show_default="your setting"),
    ] = None,
    message: Annotated[str | None, typer.Option(help="Commit message.")] = None,
    verbose: VerboseOption = False,
) -> None:
    """Upload a model to the Hub as one commit, with all the code it needs."""
    with user_errors(verbose):
        from . import hub as command

        command.push(repo_id, model, revision, private, message, verbose)


@app.command("eval", epilog=EVAL_EXAMPLES, rich_help_panel=_MEASURE)
def evaluate(
    benchmark: Annotated[
        str | None,
        typer.Argument(help="Name of a benchmark, such as video_mme; --list prints all.", show_default=False),
    ] = None,
    list_all: Annotated[bool, typer.Option("--list", help="Print all benchmarks, and evaluate nothing.")] = False,
    model: ModelOption = None,
    videos: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder of the benchmark's videos.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run; the same command continues it.", show_default="runs/BENCHMARK-MODEL"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Ask only the first questions, up to this number.", show_default="all")
    ] = None,
    subtitles: Annotated[bool, typer.Option("--subtitles", help="Give the model the videos' subtitles.")] = False,
    max_visual_tokens: TokensOption = None,
    rule: RuleOption = None,
    dual_encoder: DualEncoderOption = None,
    coarse: CoarseOption = None,
    server: ServerOption = None,
    processor: ProcessorOption = None,
    fps: FpsOption = None,
    max_frames: FramesOption = None,
    batch_size: Annotated[int, typer.Option(help="Questions about one video that are answered at once.")] = 8,
    judge: Annotated[
        str | None,
        typer.Option(help="Model that judges free answers: one of the server at OPENAI_BASE_URL, or local:MODEL."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed, for models that sample their answers.")] = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    dataset_revision: Annotated[
        str | None,
        typer.Option(
            help="Branch, tag or commit of the benchmark's data set on the Hub.", show_default="the benchmark's own"
        ),
    ] = None,
    trust_remote_code: TrustOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Evaluate a model on a benchmark. An interrupted run continues where it stopped."""
    with user_errors(verbose):
        from . import evaluate as command

        if list_all:
            command.show_benchmarks()
        else:
            command.run(
                benchmark,
                {"subtitles": True} if subtitles else {},
                trust_remote_code,
                verbose,
                {"dual_encoder": dual_encoder, "coarse": coarse and coarse.value, "processor": processor},
                model=model,
                server=server,
                rule=rule,
                videos=videos,
                out=out,
                limit=limit,
                max_visual_tokens=max_visual_tokens,
                fps=fps,
                max_frames=max_frames,
                batch_size=batch_size,
                judge=judge,
                seed=seed,
                device=device,
                dtype=dtype,
                revision=revision,
                dataset_revision=dataset_revision,
            )


@app.command(epilog=COMPARE_EXAMPLES, rich_help_panel=_MEASURE)
def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=False)],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of another run.", show_default=False)],
    verbose: VerboseOption = False,
) -> None:
    """Compare two runs of a benchmark: is the difference more than chance?"""
    with user_errors(verbose):
        from . import evaluate as command

        command.compare(first, second)


@app.command(epilog=REPORT_EXAMPLES, rich_help_panel=_MEASURE)
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=False)],
    verbose: VerboseOption = False,
) -> None:
    """Print the result of a run, and write a page with plots and a model card's section."""
    with user_errors(verbose):
        from . import evaluate as command

        command.report(run)


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal cannot show is replaced, so that the answer is printed all the same.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    if (name := looks_like_option(sys.argv[1:])) is not None:
        print_error(UserError(f"{name}: a name that begins with a dash is taken for an option; write ./{name}."))
        raise SystemExit(2)
    app(prog_name="dynfocus")


__all__ = ["app", "main"]
