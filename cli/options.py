"""Options that several commands share, and their choices."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer


class Decoder(StrEnum):
    """Decoders of video files."""

    auto = "auto"
    pyav = "pyav"
    decord = "decord"
    torchcodec = "torchcodec"


class Truncated(StrEnum):
    """What to do with a file that is cut off or damaged."""

    error = "error"
    warn = "warn"


class Coarse(StrEnum):
    """How a stock model is shown the frames that are not key frames."""

    low = "low"
    panels = "panels"
    none = "none"


class Split(StrEnum):
    """From which textures and pairs of color and shape the videos are drawn."""

    train = "train"
    test = "test"


# Groups of options in the help, after the command's own.
_MODEL, _CHOICE, _READING = "Model", "Choice of frames", "Reading"

VideoArgument = Annotated[
    str,
    typer.Argument(
        metavar="VIDEO", help="A video file, its URL, or a saved state (.safetensors).", show_default=False
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="ID", help="A folder or a Hub id.", show_default="demo model", rich_help_panel=_MODEL
    ),
]
ServerOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Ask the model that an OpenAI-compatible server calls --model; key: OPENAI_API_KEY.",
        show_default=False,
        rich_help_panel=_MODEL,
    ),
]
ProcessorOption = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        help="With --server: the processor that sizes frames and writes their times.",
        show_default=False,
        rich_help_panel=_MODEL,
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, …", show_default="automatic", rich_help_panel=_MODEL),
]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="float32, bfloat16 or float16.", show_default="as saved", rich_help_panel=_MODEL
    ),
]
RevisionOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Branch, tag or commit on the Hub.", show_default="main", rich_help_panel=_MODEL
    ),
]
TrustOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.", rich_help_panel=_MODEL)
]
TokensOption = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Largest number of visual tokens.", show_default="as saved", rich_help_panel=_CHOICE
    ),
]
RuleOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="context, uniform, peaks, topk, its, aks or mmr.",
        show_default="learned, or context",
        rich_help_panel=_CHOICE,
    ),
]
DualEncoderOption = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        help="Stock model: dual encoder; a folder, a Hub id, or open_clip:NAME/TAG.",
        show_default="google/siglip2-base-patch16-224",
        rich_help_panel=_CHOICE,
    ),
]
CoarseOption = Annotated[
    Coarse | None,
    typer.Option(
        metavar="NAME",
        help="Stock model: how other frames are shown: low, panels or none.",
        show_default="none, or as saved",
        rich_help_panel=_CHOICE,
    ),
]
FpsOption = Annotated[
    float | None,
    typer.Option(metavar="N", help="Frames to look at per second.", show_default="as saved", rich_help_panel=_READING),
]
FramesOption = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Largest number of frames to look at.", show_default="as saved", rich_help_panel=_READING
    ),
]
TruncatedOption = Annotated[
    Truncated,
    typer.Option(help="For a damaged or cut-off file: stop, or read what is left.", rich_help_panel=_READING),
]
DecoderOption = Annotated[
    Decoder,
    typer.Option(metavar="NAME", help="auto, pyav, decord or torchcodec.", rich_help_panel=_READING),
]
AnswerOption = Annotated[int, typer.Option(metavar="N", min=1, help="Largest number of tokens of the answer.")]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show messages of libraries, and the traceback of an error.")
]


def setup_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """
    Fields of a `Setup` from the options of a command that asks questions.

    Args:
        given: the options by name, as the command got them; others are left out.
    """
    plain = {name: value.value if isinstance(value, StrEnum) else value for name, value in given.items()}
    sampling = ("max_visual_tokens", "fps", "max_frames", "decoder", "on_truncated")
    adoption = ("dual_encoder", "coarse", "server", "processor")
    as_they_are = ("model", "rule", "max_new_tokens", "device", "dtype", "revision", "trust_remote_code", "verbose")
    return {
        "sampling": {name: plain[name] for name in sampling},
        "adoption": {name: plain[name] for name in adoption},
        **{name: plain[name] for name in as_they_are},
    }


__all__ = [
    "AnswerOption",
    "Coarse",
    "CoarseOption",
    "Decoder",
    "DecoderOption",
    "DeviceOption",
    "DtypeOption",
    "DualEncoderOption",
    "FpsOption",
    "FramesOption",
    "ModelOption",
    "ProcessorOption",
    "RevisionOption",
    "RuleOption",
    "ServerOption",
    "Split",
    "TokensOption",
    "Truncated",
    "TruncatedOption",
    "TrustOption",
    "VerboseOption",
    "VideoArgument",
    "setup_fields",
]
