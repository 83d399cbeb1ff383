"""Whatever is done to a state or to its file: the same answer, or one sentence, and never another answer."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from encodings_of_videos import chunked_model, same, stopping_at
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import make_tiny_processor
from tiny_models import of_videos, tiny_inputs, tiny_model
from videos import barcode_frames, write_video

from dynfocus import VideoQAPipeline, VideoState, modeling_dynfocus
from dynfocus.states import state_checks, state_parts
from dynfocus.states.state_file import Column, is_unchanged, read_notes, write_tensors

NAN, INF = float("nan"), float("inf")
QUESTION = {"video_token_plan": torch.tensor([[3, 1, 5]]), "question_input_ids": torch.tensor([[3, 5, 4]])}
# Each example writes a file into the same folder.
EVERY = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def good(model):
    pixels = tiny_inputs(model.config, [5])["pixel_values_videos"]
    state = model.encode_video(pixels)
    state.frame_times = torch.arange(5, dtype=torch.float64)[None] / 3
    state.frame_indices = torch.arange(5)[None] * 10
    state.sampling = {"source": "a – talk.mp4", "size": 3, "digest": "00ff", "duration": 1.5, "fps": 2.0}
    return state


@pytest.fixture(scope="module")
def answer(model, good):
    return answer_of(model, good)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("states")


@pytest.fixture(scope="module")
def whole(good, folder):
    """The bytes of its file."""
    good.save(folder / "good.safetensors")
    return (folder / "good.safetensors").read_bytes()


def answer_of(model, state):
    with torch.no_grad():
        found = model.get_video_features(video_state=state, **QUESTION)
    return [found.pooler_output[0], found.key_frames[0], found.event_scores[0]]


def check_same_or_one_sentence(path, model, good, answer):
    """Whether the file was refused."""
    try:
        state = VideoState.load(path)
        found = answer_of(model, state)
    except ValueError as error:
        assert "\n" not in str(error) and str(error).endswith(".")
        return True
    assert all(map(torch.equal, found, answer))
    assert (state.frame_times is None) == (good.frame_times is None)
    assert state.frame_times is None or torch.equal(state.frame_times, good.frame_times)
    assert (state.fingerprint, state.sampling) == (good.fingerprint, good.sampling)
    return False


# ---- bytes of a file


@EVERY
@given(flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes(flips, model, good, answer, whole, folder):
    data = bytearray(whole)
    for place, bits in flips:
        data[place % len(data)] ^= bits
    path = folder / "flipped.safetensors"
    path.write_bytes(data)
    assert check_same_or_one_sentence(path, model, good, answer) or data == whole


@pytest.mark.parametrize("place", ["length", "header", "notes", "features", "mask", "last byte"])
def test_one_flipped_bit_anywhere(place, whole, folder):
    header_bytes = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + header_bytes])
    starts = {name: 8 + header_bytes + value["data_offsets"][0] for name, value in header.items() if "dtype" in value}
    data = bytearray(whole)
    data[
        {
            "length": 1,
            "header": whole.index(b'"grouped_tokens"') + 3,
            "notes": whole.index(b"talk.mp4"),
            "features": starts["frame_features"],
            "mask": starts["frame_mask"] + 4,
            "last byte": len(whole) - 1,
        }[place]
    ] ^= 1
    path = folder / "flipped.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="flipped.safetensors (is|has|holds) "):
        VideoState.load(path)


def test_a_small_change_of_a_feature_is_seen(whole, folder, good):
    """What no check but the checksum can know."""
    value = good.frame_features.flatten()[7:8].numpy().tobytes()
    data = bytearray(whole)
    data[whole.index(value)] ^= 1
    path = folder / "flipped.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="flipped.safetensors is damaged .its contents do not match its checksum."):
        VideoState.load(path)


@EVERY
@given(length=st.integers(0, 10**6), extra=st.binary(max_size=9))
def test_files_of_another_length(length, extra, model, good, answer, whole, folder):
    path = folder / "cut.safetensors"
    data = whole[: length % (len(whole) + 1)] + extra
    path.write_bytes(data)
    assert check_same_or_one_sentence(path, model, good, answer) or data == whole


@pytest.mark.parametrize(
    "header",
    [
        {"frame_mask": {"dtype": "BOOL", "shape": [1, 10**18], "data_offsets": [0, 10**18]}},
        {"frame_mask": {"dtype": "BOOL", "shape": [2**63, 2**63], "data_offsets": [0, 1]}},
        {"frame_mask": {"dtype": "BOOL", "shape": [-1, 5], "data_offsets": [0, 5]}},
        {"frame_mask": {"dtype": "BOOL", "shape": [1, 5], "data_offsets": [0, 5]}, "frame_features": {}},
        {"frame_mask": {"dtype": "BOOL", "shape": [0, 5], "data_offsets": [0, 0]}},
        {"frame_mask": {"dtype": "U8", "shape": [1, 5], "data_offsets": [0, 5]}},
        {
            "frame_mask": {"dtype": "BOOL", "shape": [1, 5], "data_offsets": [0, 5]},
            "frame_features": {"dtype": "F32", "shape": [1, 5, 0, 10**9], "data_offsets": [5, 5]},
        },
        {"self": {"dtype": "BOOL", "shape": [1, 5], "data_offsets": [0, 5]}},
        {},
    ],
)
def test_absurd_headers(header, folder):
    notes = {"__metadata__": {"dynfocus": '{"format": "dynfocus-video-state-2"}'}}
    encoded = json.dumps({**notes, **header}).encode()
    path = folder / "absurd.safetensors"
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + b"\1" * 5)
    with pytest.raises(ValueError, match="absurd.safetensors (is|has) .*"):
        VideoState.load(path)
    path.write_bytes((2**63).to_bytes(8, "little") + encoded)
    with pytest.raises(ValueError, match="absurd.safetensors is not a video state"):
        VideoState.load(path)


def test_a_file_that_lost_its_checksum(whole, folder):
    path = folder / "without.safetensors"
    path.write_bytes(whole.replace(b"checksum", b"chocksum"))
    with pytest.raises(ValueError, match="is damaged"):
        VideoState.load(path)


# ---- tensors of a file


def first_changed(value):
    def change(tensor):
        changed = tensor.clone()
        changed.view(-1)[0] = value
        return changed

    return change


RESHAPED = {
    "flat": lambda tensor: tensor.flatten(),
    "one more dimension": lambda tensor: tensor[..., None],
    "turned": lambda tensor: tensor.transpose(-1, -2).contiguous(),
    "a frame less": lambda tensor: tensor[:, :-1].contiguous(),
    "two videos": lambda tensor: torch.cat([tensor, tensor]),
    "cut": lambda tensor: tensor[..., :-1].contiguous(),
    "empty": lambda tensor: tensor[..., :0].contiguous(),
    "a number": lambda tensor: tensor.flatten()[0].clone(),
}
DTYPES = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool)
BAD_VALUES = {
    "frame_features": (NAN, INF, -INF),
    "grouped_tokens": (NAN, INF, -INF),
    "parent_of_token": (-1, 6, 255),
    "frame_mask": (False,),
    "frame_times": (NAN, INF, -0.5),
    "frame_indices": (-1, 10**12),
}
OPTIONAL = ("frame_times", "frame_indices")
OTHER_NAMES = ("weight", "self", "columns", "fingerprint", "patches", "frame_embeddings", "jpeg_bytes", "jpeg_sizes")


@st.composite
def changes_of_tensors(draw):
    """Tensors to change: takes all of a state's and gives others. None of them is a state of any video."""
    name = draw(st.sampled_from(sorted(BAD_VALUES)))
    other = draw(st.sampled_from(OTHER_NAMES))
    dtype = draw(st.sampled_from(DTYPES))
    change = draw(st.sampled_from([first_changed(value) for value in BAD_VALUES[name]] + list(RESHAPED.values())))
    return draw(
        st.sampled_from(
            [
                lambda tensors: {**tensors, name: change(tensors[name])},
                lambda tensors: {**tensors, name: tensors[name].to(dtype)},
                lambda tensors: {**tensors, other: torch.zeros(1, 5, 3)},
                lambda tensors: {other if key == name else key: tensor for key, tensor in tensors.items()},
                lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name},
            ]
        )
    )


@EVERY
@given(change=changes_of_tensors(), version=st.sampled_from([1, 2, 3]))
def test_changed_tensors(change, version, model, good, answer, whole, folder):
    """Also in files of older versions, which have no checksum."""
    path = folder / "changed.safetensors"
    path.write_bytes(whole)
    notes = read_notes(path)
    if version < 3:
        del notes["checksum"]
        notes["format"] = f"dynfocus-video-state-{version}"
    tensors = change(good.tensors())
    save_file(tensors, path, {"format": "pt", "dynfocus": json.dumps(notes)})
    was_refused = check_same_or_one_sentence(
        path, model, replace(good, frame_times=tensors.get("frame_times")), answer
    )
    # What is left are the same numbers, in bytes or without times.
    groups = tensors.get("parent_of_token")
    is_whole = {*good.tensors()} - {*tensors} <= {*OPTIONAL} and {*tensors} <= {*good.tensors()}
    assert was_refused or (is_whole and torch.equal(groups.long(), good.parent_of_token))


def test_files_of_older_versions(model, good, answer, whole, folder):
    path = folder / "older.safetensors"
    path.write_bytes(whole)
    notes = {**read_notes(path), "format": "dynfocus-video-state-2"}
    del notes["checksum"]
    tensors = {name: tensor for name, tensor in good.tensors().items() if name != "frame_indices"}
    save_file(tensors, path, {"format": "pt", "dynfocus": json.dumps(notes)})
    assert not check_same_or_one_sentence(path, model, good, answer)


@pytest.mark.parametrize(
    "notes",
    [
        "[]", "3", '"x"', "{", "[" * 10**5, '{"format": 1}', '{"format": ["dynfocus-video-state-2"]}',
        '{"format": "dynfocus-video-state-3"}', '{"format": "dynfocus-video-state-3", "checksum": 5}',
        '{"format": "dynfocus-video-state-3", "checksum": ""}',
        '{"format": "dynfocus-video-state-2", "fingerprint": 7}',
        '{"format": "dynfocus-video-state-2", "fingerprint": "ab:é:c"}',
        '{"format": "dynfocus-video-state-2", "fingerprint": "ab:AAA"}',
        '{"format": "dynfocus-video-state-2", "fingerprint": "a:b:c:d"}',
        '{"format": "dynfocus-video-state-2", "sampling": []}',
        '{"format": "dynfocus-video-state-2", "sampling": {"source": 3}}',
        '{"format": "dynfocus-video-state-2", "sampling": {"size": -1}}',
        '{"format": "dynfocus-video-state-2", "sampling": {"size": "many"}}',
        '{"format": "dynfocus-video-state-2", "sampling": {"duration": NaN}}',
        '{"format": "dynfocus-video-state-2", "sampling": {"duration": true}}',
        '{"format": "dynfocus-video-state-2", "sampling": {"digest": {}}}',
    ],
)  # fmt: skip
def test_notes_that_make_no_sense(notes, good, folder):
    path = folder / "noted.safetensors"
    save_file(good.tensors(), path, {"dynfocus": notes})
    with pytest.raises(ValueError, match="noted.safetensors (is|has) "):
        VideoState.load(path)


# ---- states in memory


def with_value(tensor, place, value):
    changed = tensor.clone()
    changed[place] = value
    return changed


FAULTS = {
    "holds NaN or infinite numbers in `frame_features` .first in frame 3 of video 0.": (
        "frame_features", lambda t: with_value(t, (0, 3, 2, 1), NAN)),
    "holds NaN or infinite numbers in `grouped_tokens` .first in frame 4 of video 0.": (
        "grouped_tokens", lambda t: with_value(t, (0, 4, 21, 23), -INF)),
    "has `frame_features` of type torch.int8 instead of a floating-point type": (
        "frame_features", lambda t: t.to(torch.int8)),
    "has features of several types, torch.float16 and torch.float32": ("frame_features", lambda t: t.half()),
    "has features of several widths, 5 and 24": ("frame_features", lambda t: t[..., :5]),
    "has `frame_features` that is .1, 4, 16, 24. torch.float32 instead of .1, 5, cells, width.": (
        "frame_features", lambda t: t[:, :4]),
    "has no `frame_features` beside its `grouped_tokens`": ("frame_features", lambda t: None),
    "has groups in `parent_of_token` that are not in 0…(5|21) .first in frame 2 of video 0.": (
        "parent_of_token", lambda t: with_value(t, (0, 2, 9), -1)),
    "has groups in `parent_of_token` that are not in 0…(5|21) .first in frame 1 ": (
        "parent_of_token", lambda t: with_value(t, (0, 1, 0), 6)),
    "has `parent_of_token` of type torch.int32 instead of": ("parent_of_token", lambda t: t.int()),
    "has other numbers of tokens in `parent_of_token` than": ("parent_of_token", lambda t: t[..., :5]),
    "has `frame_times` that are NaN, infinite or negative": ("frame_times", lambda t: with_value(t, (0, 0), -0.1)),
    "has `frame_times` that are NaN, infinite or": ("frame_times", lambda t: with_value(t, (0, 4), NAN)),
    "has `frame_times` that do not increase from frame to frame": ("frame_times", lambda t: with_value(t, (0, 2), 9)),
    "has `frame_times` that do not increase": ("frame_times", lambda t: with_value(t, (0, 2), 1 / 3)),
    "has `frame_times` that is .5,. torch.float64 instead of .1, 5. torch.float64": ("frame_times", lambda t: t[0]),
    "has `frame_times` that is .1, 5. torch.float32 instead": ("frame_times", lambda t: t.float()),
    "has `frame_indices` that do not increase": ("frame_indices", lambda t: t.flip(1)),
    "has a `frame_mask` with a hole in it": ("frame_mask", lambda t: with_value(t, (0, 2), False)),
    "has a `frame_mask` with a hole in it, or with no frame of a video": ("frame_mask", lambda t: ~t),
    "has a `frame_mask` that is .1, 5. torch.float32 instead of": ("frame_mask", lambda t: t.float()),
    "has a `frame_mask` that is .1, 5, 1. torch.bool instead": ("frame_mask", lambda t: t[..., None]),
    "has an invalid `fingerprint`": ("fingerprint", lambda t: "no"),
    "has an invalid `duration` in its `sampling`": ("sampling", lambda t: {**t, "duration": INF}),
    "has `frame_embeddings`, which this model does not use": ("frame_embeddings", lambda t: torch.eye(5)[None]),
    "holds vectors in `frame_embeddings` that are not of length 1": (
        "frame_embeddings", lambda t: torch.ones(1, 5, 8)),
    "has .63, 24. numbers in `patches` of each frame, where this model has .64, 24.": (
        "patches", lambda t: torch.zeros(1, 5, 63, 24)),
    "has `jpeg_bytes` that is a NoneType instead": ("jpeg_sizes", lambda t: torch.ones(1, 5, dtype=torch.int64)),
}  # fmt: skip


@pytest.mark.parametrize("message", FAULTS)
def test_faults_of_a_state_in_memory(message, model, good, answer):
    name, change = FAULTS[message]
    state = replace(good, columns=dict(good.columns))
    assert all(map(torch.equal, answer_of(model, state), answer))
    setattr(state, name, change(getattr(state, name)))
    with pytest.raises(ValueError, match=f"^This video state {message}.*: encode the video again.$"):
        answer_of(model, state)


def test_columns_of_another_kind(model, good, tmp_path):
    state = VideoState({"frame_embeddings": torch.eye(5, 24)[None]}, frame_mask=good.frame_mask)
    with pytest.raises(ValueError, match="This video state has no `frame_features`, which this model needs"):
        answer_of(model, state)
    with pytest.raises(ValueError, match="has no features"):
        VideoState(frame_mask=good.frame_mask).save(tmp_path / "none")
    state = replace(good, columns={**good.columns, "scores": torch.zeros(1, 5, 2, dtype=torch.int32)})
    with pytest.raises(ValueError, match="has `scores` of type torch.int32"):
        state.check()


def test_a_damaged_state_is_not_saved(good, tmp_path):
    state = replace(good, frame_features=torch.full_like(good.frame_features, NAN))
    with pytest.raises(ValueError, match="holds NaN or infinite numbers in `frame_features`"):
        state.save(tmp_path / "state")
    assert not list(tmp_path.iterdir())


def test_rows_that_share_a_video(good, model):
    """Views of one video are looked at once, and as well as alone."""
    good.expand(1000).check()
    state = replace(good, grouped_tokens=with_value(good.grouped_tokens, (0, 1, 0, 0), NAN))
    with pytest.raises(ValueError, match="in `grouped_tokens` .first in frame 1 of video 0."):
        state.expand(3).check()
    with pytest.raises(ValueError, match="in `grouped_tokens` .first in frame 1 of video 1."):
        VideoState.stack([replace(good), state]).check()


def test_what_was_checked_is_not_read_again(model, good, monkeypatch):
    state, read = replace(good, columns=dict(good.columns)), []
    is_finite = state_checks.is_finite
    monkeypatch.setattr(state_checks, "is_finite", lambda tensor: read.append(1) or is_finite(tensor))
    answer_of(model, state)
    assert len(read) == 2
    answer_of(model, state)
    assert len(read) == 2
    # What is written in place is seen.
    state.frame_features = state.frame_features.clone()
    answer_of(model, state)
    state.frame_features[0, 4, 0, 0] = NAN
    with pytest.raises(ValueError, match="first in frame 4"):
        answer_of(model, state)
    with torch.inference_mode():
        state.frame_features = good.frame_features.clone()
        state.check()
        state.frame_features[0, 2, 0, 0] = NAN
        with pytest.raises(ValueError, match="first in frame 2"):
            state.check()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_one_bad_number_in_a_million(dtype, value):
    column = torch.randn(2, 500, 10, 100).to(dtype)
    frame_mask = torch.ones(2, 500, dtype=torch.bool)
    assert state_checks.value_fault("frame_features", column, frame_mask) is None
    column[1, 321, 7, 99] = value
    assert "first in frame 321 of video 1" in state_checks.value_fault("frame_features", column, frame_mask)


def test_the_pipeline_says_one_sentence(good):
    pipe = VideoQAPipeline(model=tiny_model(), processor=make_tiny_processor())
    state = replace(good, fingerprint=None)
    assert pipe(state, question="what is it?", max_new_tokens=2)["answer"] is not None
    for name, (attribute, change) in FAULTS.items():
        state = replace(good, columns=dict(good.columns), fingerprint=None)
        setattr(state, attribute, change(getattr(state, attribute)))
        with pytest.raises(ValueError, match=name):
            pipe(state, question="what is it?", max_new_tokens=2)


def test_no_tokens_are_planned_for_a_damaged_state(good):
    processor = make_tiny_processor()
    processor(text=[processor.video_token], videos=good, question="what?")
    with pytest.raises(ValueError, match="with a hole in it"):
        holed = with_value(good.frame_mask, (0, 1), False)
        processor(text=[processor.video_token], videos=replace(good, frame_mask=holed), question="what?")


# ---- parts of an interrupted encoding


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("films") / "film.mp4", barcode_frames(24), fps=10, gop=10)


@pytest.fixture(scope="module")
def encode(film):
    encoder, processor = chunked_model(chunk=4), make_tiny_processor()

    def encode(target=None, **options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(state_parts, "_PART_BYTES", 1)
            return encoder.encode_video(film, processor=processor, fps=10, save_to=target, **options)

    return encode


@pytest.fixture(scope="module")
def expected(encode):
    return encode()


@pytest.fixture(scope="module")
def interrupted(encode, tmp_path_factory):
    """A folder with the state's parts of 16 frames, 4 in each."""
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.raises(KeyboardInterrupt):
        encode(folder / "state", progress=stopping_at(16))
    return folder / "state.parts"


@pytest.fixture
def target(interrupted, tmp_path):
    shutil.copytree(interrupted, tmp_path / "state.parts")
    return tmp_path / "state"


@settings(EVERY, max_examples=30)
@given(number=st.integers(0, 3), place=st.integers(0, 10**6), bits=st.integers(1, 255))
def test_a_flipped_byte_in_a_part(number, place, bits, encode, interrupted, tmp_path):
    shutil.rmtree(tmp_path / "state.parts", ignore_errors=True)
    shutil.copytree(interrupted, tmp_path / "state.parts")
    part = tmp_path / "state.parts" / f"part-{number:06d}.safetensors"
    data = bytearray(part.read_bytes())
    data[place % len(data)] ^= bits
    part.write_bytes(data)
    with pytest.raises(
        ValueError,
        match=f"are not complete: delete that folder to start again, or part-{number:06d}.safetensors, which is "
        f"damaged, and the parts after it to continue after {4 * number} frames.$",
    ):
        encode(tmp_path / "state")
    assert part.read_bytes() == data


def test_the_way_out_of_a_damaged_part(encode, expected, target):
    parts = sorted(target.with_name("state.parts").glob("part-*"))
    data = bytearray(parts[2].read_bytes())
    data[-1] ^= 1
    parts[2].write_bytes(data)
    with pytest.raises(ValueError, match="part-000002.safetensors, which is damaged, and the parts after it"):
        encode(target)
    for part in parts[2:]:
        part.unlink()
    starts = []
    same(encode(target, progress=lambda done, total: starts.append(done)), expected)
    assert starts[0] == 8


@settings(EVERY, max_examples=30)
@given(place=st.integers(0, 10**6), bits=st.integers(1, 255))
def test_a_flipped_byte_in_the_manifest(place, bits, encode, expected, interrupted, tmp_path):
    shutil.rmtree(tmp_path / "state.parts", ignore_errors=True)
    (tmp_path / "state").unlink(missing_ok=True)
    shutil.copytree(interrupted, tmp_path / "state.parts")
    manifest = tmp_path / "state.parts" / "manifest.json"
    data = bytearray(manifest.read_bytes())
    data[place % len(data)] ^= bits
    manifest.write_bytes(data)
    try:
        state = encode(tmp_path / "state")
    except ValueError as error:
        assert "\n" not in str(error) and "state.parts" in str(error)
    else:
        same(state, expected)


def test_parts_of_an_older_version_go_on(encode, expected, target):
    """They have no notes."""
    for part in target.with_name("state.parts").glob("part-*"):
        with safe_open(part, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
        save_file(tensors, part)
    manifest = target.with_name("state.parts") / "manifest.json"
    key = json.loads(manifest.read_text())
    with pytest.raises(ValueError, match="part-000000.safetensors, which is damaged"):
        encode(target)
    del key["keeps"]
    manifest.write_text(json.dumps({**key, "format": "dynfocus-state-parts-1"}))
    starts = []
    same(encode(target, progress=lambda done, total: starts.append(done)), expected)
    assert starts[0] == 16


def test_features_that_are_no_numbers_end_an_encoding(film, tmp_path):
    """At once, and not when all of it is done."""
    model, done = chunked_model(), []
    with torch.no_grad():
        model.model.vision_tower.backbone.encoder.layers[0].mlp.fc1.weight.fill_(NAN)
    for target in (None, tmp_path / "state"):
        with pytest.raises(ValueError, match="The encoder returns NaN or infinite numbers in `frame_features`, as "):
            model.encode_video(
                film, processor=make_tiny_processor(), fps=10, save_to=target, progress=lambda n, _: done.append(n)
            )
    assert done == [0, 0]


def test_numbers_that_half_precision_cannot_hold(film, monkeypatch):
    model, pool_patches = chunked_model(), modeling_dynfocus.pool_patches
    monkeypatch.setattr(modeling_dynfocus, "pool_patches", lambda *arguments: pool_patches(*arguments) * 1e6)
    with pytest.raises(ValueError, match="as torch.float16, of the frames at 0.00 to 0.70 s: check its weights, or"):
        model.encode_video(film, processor=make_tiny_processor(), fps=10, dtype=torch.float16)
    model.encode_video(film, processor=make_tiny_processor(), fps=10)


# ---- the file itself


def test_a_checksum_is_of_every_byte(tmp_path):
    path = tmp_path / "tensors"
    write_tensors(path, {"a": Column.of(torch.arange(3.0)), "b": Column.of(torch.ones(2) > 0)}, {"any": "thing"})
    data, notes = path.read_bytes(), read_notes(path)
    assert notes["any"] == "thing" and is_unchanged(path, notes)
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        assert not is_unchanged(path, notes)


def test_questions_about_a_state_of_two_videos(model):
    inputs = tiny_inputs(model.config, [5, 3])
    names = ("pixel_values_videos", "video_frame_mask")
    with torch.no_grad():
        state = model.encode_video(*(inputs.pop(name) for name in names))
        model.get_video_features(video_state=state, **of_videos(inputs))
        state.frame_mask[1, 1] = False
        with pytest.raises(ValueError, match="with a hole in it"):
            model.get_video_features(video_state=state, **of_videos(inputs))
