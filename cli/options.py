"""What several commands take alike, and what can be chosen of."""

from enum import StrEnum
from typing import Annotated

import typer


class Decoder(StrEnum):
    """What reads the file."""

    auto = "auto"
    pyav = "pyav"
    decord = "decord"
    torchcodec = "torchcodec"


class Truncated(StrEnum):
    """What to do about a file that is cut off or damaged."""

    error = "error"
    warn = "warn"


class Split(StrEnum):
    """Which textures and pairs of colour and shape the videos draw from."""

    train = "train"
    test = "test"


class Style(StrEnum):
    """How much happens in a synthetic video."""

    short = "short"
    long = "long"


VideoArgument = Annotated[
    str, typer.Argument(help="A video file, its URL, or a saved state (.safetensors).", show_default=False)
]
DecoderOption = Annotated[Decoder, typer.Option(help="What reads the file.")]
ModelOption = Annotated[
    str | None, typer.Option("--model", "-m", help="A folder or a Hub id.", show_default="the embedded model")
]
RevisionOption = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of the model on the Hub.", show_default="main")
]
TokensOption = Annotated[
    int | None, typer.Option(help="Spend so many visual tokens at most.", show_default="as the model was saved")
]
FpsOption = Annotated[
    float | None, typer.Option(help="Frames to look at per second.", show_default="as the model was saved")
]
FramesOption = Annotated[
    int | None, typer.Option(help="Frames to look at, at most.", show_default="as the model was saved")
]
DeviceOption = Annotated[
    str | None, typer.Option(help="Such as cpu, cuda or cuda:1.", show_default="an accelerator if there is one")
]
DtypeOption = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16.", show_default="as the model was saved")
]
AnswerOption = Annotated[int, typer.Option(min=1, help="Tokens of the answer, at most.")]
TrustOption = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show libraries' messages, and where an error comes from.")
]


__all__ = [
    "AnswerOption",
    "Decoder",
    "DecoderOption",
    "DeviceOption",
    "DtypeOption",
    "FpsOption",
    "FramesOption",
    "ModelOption",
    "RevisionOption",
    "Split",
    "Style",
    "TokensOption",
    "Truncated",
    "TrustOption",
    "VerboseOption",
    "VideoArgument",
]
