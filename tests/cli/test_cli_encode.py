"""`dynfocus encode`: a video to a state, once, and on from where it was interrupted."""

import os
import re
import signal

import pytest
import torch
from forked import Forked
from tiny import make_tiny_processor
from tiny_models import tiny_model
from typer.testing import CliRunner
from videos import barcode_frames, cut_file, write_video

from dynfocus import DynFocusForConditionalGeneration, VideoState
from dynfocus.cli.app import app


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model().save_pretrained(folder)
    make_tiny_processor().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """12 seconds, 2 frames a second."""
    return write_video(tmp_path_factory.mktemp("films") / "a film.mp4", barcode_frames(24), fps=2)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "a state.safetensors"


@pytest.fixture
def encode(model, film, out):
    def call(*options, video=film, out=out, model=model):
        arguments = ("encode", video, "-o", out, "--model", model, *options)
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return call


def failure(done):
    """The one sentence on stderr."""
    assert done.exit_code == 1 and done.stdout == "" and done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    return done.stderr.removeprefix("error: ").strip()


def test_a_state_is_written_and_said(encode, out, model, film):
    done = encode()
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == f"{out} is written: 12 frames of 0:12, {out.stat().st_size / 1e6:.1f} MB.\n"
    state = VideoState.load(out)
    network = DynFocusForConditionalGeneration.from_pretrained(model)
    expected = network.encode_video(film, processor=make_tiny_processor())
    assert all(torch.equal(state.tensors()[name], tensor) for name, tensor in expected.tensors().items())
    assert sorted(path.name for path in out.parent.iterdir()) == [out.name]


@pytest.mark.parametrize(
    "options, num_frames",
    [
        (("--fps", "2"), 24),
        (("--num-frames", "5"), 5),
        (("--fps", "2", "--max-frames", "7"), 7),
        (("--key-frames", "--max-frames", "2"), 2),
    ],
)
def test_sampling(encode, out, options, num_frames):
    assert encode(*options).exit_code == 0
    assert VideoState.load(out).num_frames == [num_frames]


def test_half_precision(encode, out):
    assert encode("--half").exit_code == 0
    assert VideoState.load(out).frame_features.dtype == torch.float16


def test_what_is_finished_is_not_done_again(encode, out, film):
    encode("--fps", "2")
    stamp = out.stat().st_mtime_ns
    # By another path as well.
    done = encode("--fps", "2", video=os.path.relpath(film))
    assert done.exit_code == 0 and out.stat().st_mtime_ns == stamp
    assert "was finished before, with the same settings: 24 frames of 0:12" in done.stdout


def test_a_url_again(encode, out, film):
    assert encode(video=film.as_uri()).exit_code == 0
    assert "was finished before" in encode(video=film.as_uri()).stdout


def test_another_state_is_not_overwritten(encode, out, tmp_path):
    encode()
    before = out.read_bytes()
    another = write_video(tmp_path / "another.mp4", barcode_frames(10), fps=2)
    other = tmp_path / "other model"
    tiny_model(seed=1).save_pretrained(other)
    make_tiny_processor().save_pretrained(other)
    for what, arguments in {
        "another video": {"video": another},
        "another sampling": {"options": ("--fps", "2")},
        "another model": {"model": other},
        "another precision": {"options": ("--half",)},
    }.items():
        message = failure(encode(*arguments.pop("options", ()), **arguments))
        assert message == (
            f"--out {out}: exists already and is of {what}: name another file, or overwrite it with --force."
        )
    assert out.read_bytes() == before
    assert encode("--half", "--force").exit_code == 0
    assert out.read_bytes() != before


def test_a_damaged_state_is_overwritten_when_asked(encode, out):
    encode()
    whole = out.read_bytes()
    out.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    message = failure(encode())
    assert message.startswith(f"{out} is damaged") and message.endswith(
        "in another file, or over this one with --force."
    )
    assert encode("--force").exit_code == 0 and out.read_bytes() == whole


def test_a_file_that_is_no_state_is_never_overwritten(encode, out, film):
    out.write_text("my thesis")
    assert failure(encode()) == f"--out {out}: exists already and is no video state; name another file."
    assert "is no video state" in failure(encode("--force")) and out.read_text() == "my thesis"
    assert "is the video itself; name another file" in failure(encode("--force", out=film))


def test_what_makes_no_sense(encode, out, tmp_path):
    assert "--fps 0.0: must be above 0." in failure(encode("--fps", "0"))
    assert "--max-frames -1: must be above 0." in failure(encode("--max-frames", "-1"))
    assert "none.mp4: there is no such video file." in failure(encode(video="none.mp4"))
    assert f"--out {tmp_path}: is a folder; name a file." in failure(encode(out=tmp_path))
    assert "there is no folder" in failure(encode(out=tmp_path / "missing" / "state.safetensors"))
    # By its ending `ask` knows a state from a video.
    assert "the name of a state ends in .safetensors." in failure(encode(out=tmp_path / "state"))
    message = failure(encode("--key-frames", "--fps", "2"))
    assert message.startswith("--key-frames takes the frames") and "leave out --fps and --num-frames" in message
    (tmp_path / "garbage.mp4").write_bytes(b"garbage" * 99)
    assert "garbage.mp4: cannot be opened as a video" in failure(encode(video=tmp_path / "garbage.mp4"))
    assert not out.exists()


def test_a_file_that_is_cut_off(encode, out, tmp_path):
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    film = write_video(tmp_path / "film.mp4", barcode_frames(60), fps=2, container_options=options)
    cut = cut_file(film, 0.6, tmp_path / "cut.mp4")
    message = failure(encode(video=cut))
    assert re.search(r"cut.mp4: is cut off; it can be read until [\d.]+ s .*--on-truncated warn reads these", message)
    done = encode("--on-truncated", "warn", video=cut)
    assert done.exit_code == 0 and re.match(r"warning: .*cut.mp4: is cut off; it can be read until", done.stderr)
    lines = done.stderr.splitlines()
    # The last picture before the cut may be missing, which is said, too; nothing else is.
    assert all(re.match(r"warning: .*cut.mp4: (is cut off|its picture is missing)", line) for line in lines)
    assert len(lines) <= 2


# The third chunk does not end before there is a signal.
WAITING = """
import signal, sys
import dynfocus.modeling_dynfocus as encoding
from dynfocus.cli import main
group_patches, chunks = encoding.group_patches, []
def waiting(*arguments):
    chunks.append(arguments)
    if len(chunks) == 3:
        print("third", file=sys.stderr, flush=True)
        signal.pause()
    return group_patches(*arguments)
encoding.group_patches = waiting
main()
"""


def test_interrupted_and_continued(encode, model, tmp_path):
    """A real process, stopped by a real Ctrl-C."""
    film = write_video(tmp_path / "film.mp4", barcode_frames(250), fps=10)
    whole, out = tmp_path / "whole.safetensors", tmp_path / "state.safetensors"
    script = tmp_path / "encode.py"
    script.write_text(WAITING)
    arguments = ("encode", film, "-o", out, "--model", model, "--fps", "10")
    with Forked(script, *arguments) as process:
        process.until(lambda: process.output == "third\n")
        process.signal(signal.SIGINT)
        assert process.wait() == 130
        last = process.output.removeprefix("third\n")
    assert last == f"Stopped after 64 of 250 frames; the same command continues there ({out}.parts keeps them).\n"
    assert not out.exists()
    for target in (out, whole):
        assert encode("--fps", "10", video=film, out=target).stdout.startswith(f"{target} is written: 250 frames")
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encode.py", "film.mp4", out.name, whole.name]


def test_two_ways_to_set_the_number_of_frames_are_refused(encode, out):
    done = encode("--num-frames", "5", "--fps", "2")
    assert failure(done) == "--fps 2 and --num-frames 5: each sets the number of frames; give one."
    assert not out.exists()
