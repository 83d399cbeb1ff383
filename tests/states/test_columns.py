"""States of any encoder: named columns, numbers of frames, and frames that are kept as pictures."""

import copy
import io
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from encodings_of_videos import same, stopping_at
from PIL import Image
from tiny import make_tiny_processor
from videos import barcode_frames, read_barcode, write_video

from dynfocus import VideoState
from dynfocus.processing.reading.video_reading import read_video, resize_frame
from dynfocus.states import state_parts
from dynfocus.states.encoding import encode_stream

NUM_FRAMES, WIDTH = 24, 6


def look(pixels):
    """A unit vector for each frame, as from a dual encoder."""
    assert pixels.shape[1:] == (3, 32, 32)
    projected = pixels.flatten(1).double() @ torch.linspace(-1, 1, pixels[0].numel() * WIDTH).double().view(-1, WIDTH)
    return {"frame_embeddings": torch.nn.functional.normalize(projected + 1, dim=-1)}


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Frame n shows n."""
    return write_video(tmp_path_factory.mktemp("films") / "film.mp4", barcode_frames(NUM_FRAMES), fps=10, gop=10)


def opened(video, chunk, fps, keeps_frames):
    """A stream of frames in the size of the encoder, perhaps with JPEG files of each in its own size."""
    stream = make_tiny_processor().video_processor.stream(video, chunk, fps=fps, do_resize=False)
    frames, stream.keeps_frames = stream._frames, keeps_frames

    def made(frame):
        small, file = resize_frame(frame, (32, 32)), io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=90)
        return (small, file.getvalue()) if keeps_frames else small

    stream._frames = lambda after: ((number, made(frame)) for number, frame in frames(after))
    return stream


@pytest.fixture(scope="module")
def encode(film):
    def encode(video=film, keep_frames=False, chunk=5, fps=5, **options):
        stream = opened(video, chunk, fps, keep_frames)
        return encode_stream(
            stream, look, **{"dtype": torch.float16, "fingerprint": "a:", "keep_indices": True, **options}
        )

    return encode


@pytest.fixture(scope="module")
def kept(encode):
    return encode(keep_frames=True)


def shown(pictures):
    return [read_barcode(np.asarray(picture)) for picture in pictures]


def test_a_state_of_embeddings(encode, film):
    state = encode()
    count = NUM_FRAMES // 2
    assert list(state.columns) == ["frame_embeddings"] and state.frame_embeddings.shape == (1, count, WIDTH)
    assert state.dtype == torch.float16 and state.num_frames == [count]
    assert state.frame_features is state.grouped_tokens is state.patches is None
    assert state.frame_indices.tolist() == [list(range(0, NUM_FRAMES, 2))]
    assert state.frame_times.tolist() == [pytest.approx([number / 5 for number in range(count)])]
    assert state.sampling["source"] == str(film) and state.fingerprint.startswith("a::")
    state.check({"frame_embeddings": (WIDTH,)})
    with pytest.raises(ValueError, match=r"has \(6,\) numbers in `frame_embeddings` of each frame, where .* \(7,\)"):
        state.check({"frame_embeddings": (7,)})
    # Numbers of the frames are kept by those that ask for them.
    assert encode(keep_indices=False).frame_indices is None


def test_bytes_of_an_hour():
    """5.5 MB at one frame a second, of a width of 768."""
    embeddings = torch.nn.functional.normalize(torch.randn(1, 3600, 768), dim=-1).half()
    state = VideoState(
        {"frame_embeddings": embeddings},
        frame_mask=torch.ones(1, 3600, dtype=torch.bool),
        frame_times=torch.arange(3600.0, dtype=torch.float64)[None],
        frame_indices=torch.arange(3600)[None],
    )
    state.check({"frame_embeddings": (768,)})
    assert sum(tensor.nbytes for tensor in state.tensors().values()) == 3600 * (2 * 768 + 1 + 8 + 8) < 5.6e6


@pytest.mark.parametrize("keep_frames", [False, True])
def test_what_is_saved_is_what_is_made(encode, tmp_path, monkeypatch, keep_frames):
    monkeypatch.setattr(state_parts, "_PART_BYTES", 1)
    state = encode(keep_frames=keep_frames)
    streamed = encode(keep_frames=keep_frames, save_to=tmp_path / "streamed")
    same(streamed, state)
    state.save(tmp_path / "saved")
    assert (tmp_path / "streamed").read_bytes() == (tmp_path / "saved").read_bytes()
    loaded = VideoState.load(tmp_path / "saved")
    same(loaded, state)
    assert (loaded.fingerprint, loaded.sampling) == (state.fingerprint, state.sampling)


def test_an_interrupted_encoding_goes_on(encode, kept, tmp_path, monkeypatch):
    monkeypatch.setattr(state_parts, "_PART_BYTES", 1)
    target = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        encode(keep_frames=True, save_to=target, progress=stopping_at(5))
    for other in ({"keep_frames": False}, {"keep_frames": True, "keep_indices": False}):
        with pytest.raises(ValueError, match="but what is kept of the frames has changed"):
            encode(save_to=target, **other)
    starts = []
    state = encode(keep_frames=True, save_to=target, progress=lambda done, total: starts.append(done))
    assert starts[0] == 5
    same(state, kept)


def test_a_finished_state_that_keeps_less_is_made_again(encode, tmp_path):
    target = tmp_path / "state"
    assert encode(save_to=target).jpeg_bytes is None
    written = target.stat().st_mtime_ns
    same(encode(save_to=target, keep_frames=True), encode(keep_frames=True))
    assert target.stat().st_mtime_ns > written
    # One that keeps more serves.
    written = target.stat().st_mtime_ns
    assert encode(save_to=target).jpeg_bytes is not None and target.stat().st_mtime_ns == written


# ---- frames that are kept


def test_kept_frames_are_the_frames(kept, film):
    numbers = [0, 7, 3, 11]
    pictures = kept.kept_frames(numbers)
    assert shown(pictures) == [2 * number for number in numbers]
    frames = read_video(film, fps=10).frames
    for number, picture in zip(numbers, pictures, strict=True):
        assert isinstance(picture, Image.Image) and picture.mode == "RGB"
        expected = frames[2 * number].astype(int)
        # In the video's own size, and not in the encoder's.
        assert np.asarray(picture).shape == expected.shape != (32, 32, 3)
        assert np.abs(np.asarray(picture) - expected).mean() < 3


def test_frames_in_memory_are_kept(encode):
    state = encode(video=barcode_frames(9), keep_frames=True)
    assert shown(state.kept_frames(range(9))) == list(range(9))


def test_kept_frames_when_the_video_is_gone(encode, film, tmp_path):
    copied = tmp_path / "copy.mp4"
    copied.write_bytes(film.read_bytes())
    encode(video=copied, keep_frames=True, save_to=tmp_path / "state")
    copied.unlink()
    assert shown(VideoState.load(tmp_path / "state").kept_frames([1, 5])) == [2, 10]


def test_kept_frames_of_rows_and_batches(kept, encode):
    other = encode(video=barcode_frames(30)[20:], keep_frames=True)
    assert shown(kept.expand(3).kept_frames([4], video=2)) == [8]
    both = VideoState.stack([other, kept.expand(2), VideoState.stack([kept, other])])
    assert both.num_frames == [10, 12, 12, 12, 10]
    for row, first, step in ((0, 20, 1), (1, 0, 2), (2, 0, 2), (3, 0, 2), (4, 20, 1)):
        assert shown(both.kept_frames([0, 9], video=row)) == [first, first + 9 * step]
    both.check()
    assert both.frame_indices[0].tolist() == [*range(10), 0, 0]
    # Where not all states keep their frames, none are kept.
    mixed = VideoState.stack([kept, encode()])
    assert mixed.jpeg_bytes is mixed.jpeg_sizes is None and mixed.frame_indices is not None
    with pytest.raises(ValueError, match="keeps no frames: encode the video with `keep_frames=True`"):
        mixed.kept_frames([0])


def test_moving_a_state_leaves_its_pictures(kept):
    half = kept.to("cpu", torch.bfloat16)
    assert half.dtype == torch.bfloat16 and half.jpeg_bytes is kept.jpeg_bytes
    assert half.frame_indices is kept.frame_indices and kept.to("cpu") is kept
    meta = kept.to("meta")
    assert meta.frame_embeddings.is_meta and meta.frame_times.is_meta and not meta.jpeg_bytes.is_meta


@pytest.mark.parametrize(
    "change, message",
    [
        ({"jpeg_bytes": None}, "has `jpeg_bytes` that is a NoneType instead of"),
        ({"jpeg_sizes": None}, "has `jpeg_sizes` that is a NoneType instead of"),
        ({"jpeg_bytes": lambda data: data[:-1]}, "has `jpeg_sizes` that do not fit its `jpeg_bytes`"),
        ({"jpeg_bytes": lambda data: data.float()}, "torch.float32 instead of"),
        ({"jpeg_sizes": lambda sizes: sizes[:, :-1]}, "has `jpeg_sizes` that is"),
        ({"jpeg_sizes": lambda sizes: torch.cat([-sizes[:, :1], sizes[:, 1:]], 1)}, "do not fit its `jpeg_bytes`"),
        ({"jpeg_sizes": lambda sizes: torch.full_like(sizes, 2**62)}, "do not fit its `jpeg_bytes`"),
    ],
)
def test_pictures_that_do_not_fit(kept, change, message):
    ((name, value),) = change.items()
    state = replace(kept, **{name: value and value(getattr(kept, name))})
    with pytest.raises(ValueError, match=message):
        state.check()


def test_a_damaged_picture(kept):
    for damaged in (torch.zeros_like(kept.jpeg_bytes), kept.jpeg_bytes.flip(0)):
        with pytest.raises(ValueError, match="The picture of frame 2 in this video state is damaged"):
            replace(kept, jpeg_bytes=damaged).kept_frames([2])


# ---- columns as attributes


def test_columns_are_attributes():
    mask = torch.ones(1, 2, dtype=torch.bool)
    state = VideoState({"frame_embeddings": torch.eye(2)[None], "own": torch.zeros(1, 2, 3)}, frame_mask=mask)
    assert state.columns["own"].shape == (1, 2, 3)
    state.frame_embeddings = torch.eye(2, 4)[None]
    assert state.columns["frame_embeddings"].shape == (1, 2, 4)
    state.frame_embeddings = None
    assert "frame_embeddings" not in state.columns and state.frame_embeddings is None
    assert list(state.tensors()) == ["own", "frame_mask"] and "own (1, 2, 3) torch.float32" in repr(state)
    other = replace(state, own=torch.ones(1, 2, 3), fingerprint="a:")
    assert bool((other.columns["own"] == 1).all()) and state.fingerprint is None and not state.columns["own"].any()


def test_copies_of_a_state(kept):
    """Between processes, too; what was checked stays with the state that was."""
    kept.check()
    for other in (copy.deepcopy(kept), pickle.loads(pickle.dumps(kept))):
        same(other, kept)
        other.check()
        other.frame_embeddings[0, 3, 0] = float("nan")
        with pytest.raises(ValueError, match="first in frame 3"):
            other.check()
    kept.check()
