"""The comparison of ways to spend visual tokens: what its rows keep of a video, and a run of all of them."""

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from asked import Asked, difference, percent
from forked import run
from safetensors.torch import load_file
from transformers import AutoTokenizer

pytestmark = pytest.mark.integration

FOCUS = Path(__file__).parents[2] / "benchmarks" / "focus"


@pytest.fixture(scope="module")
def focus():
    """The comparison's modules, which are no package."""
    import layouts
    import results
    import row_training

    return layouts, results, row_training


@pytest.fixture(scope="module")
def tiny():
    from recipe.model import build_config, build_processor
    from recipe.tokenizer import build_tokenizer

    from dynfocus import DynFocusForConditionalGeneration

    tokenizer = build_tokenizer(episodes=20)
    torch.manual_seed(0)
    return DynFocusForConditionalGeneration(build_config(tokenizer)).eval(), build_processor(tokenizer)


def visual_tokens(focus, tiny, name, num_key=3, seed=0):
    """Tokens and key frames that a row gives one video of 12 frames; the asked event is frames 4 and 5."""
    layouts, *_ = focus
    model, layout = copy.deepcopy(tiny[0]), layouts.ROWS[name]
    layouts.lay_out(model, layout)
    return tokens_and_keys(focus, model, layout, num_key, seed)


def tokens_and_keys(focus, model, layout, num_key=3, seed=0):
    """The same of a model that has the layout already."""
    plan = layout.plan(12, num_key)
    asked = torch.zeros(1, 12)
    asked[0, 4:6] = 1
    choice = focus[0].choice_of(layout, asked, num_key, seed)
    pixels = torch.randn(1, 12, 3, 64, 64, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        inputs = {
            "video_state": model.encode_video(pixels),
            "video_token_plan": torch.tensor([plan.as_row()]),
            "question_input_ids": torch.tensor([[5, 6, 7]]),
        }
        features = focus[0].video_features(model, choice, inputs)
    assert len(features.pooler_output[0]) == plan.num_visual_tokens
    return features.pooler_output[0], features.key_frames[0].tolist()


def test_what_each_row_keeps(focus, tiny):
    tokens, keys = {}, {}
    for name in focus[0].ROWS:
        if name != "released_code":  # has a configuration of its own
            tokens[name], keys[name] = visual_tokens(focus, tiny, name)
            layout = focus[0].ROWS[name]
            frames = focus[0].frame_of_token(layout, [torch.tensor(keys[name])], 12)[0]
            assert len(frames) == len(tokens[name]) and (frames.diff() >= 0).all()
            with_cones = set(range(12)) if name == "dense" else set(keys[name]) if layout.cones else set()
            if not layout.pooled:
                assert {frame for frame in range(12) if (frames == frame).sum() >= 38} == with_cones
    lengths = {name: len(one) for name, one in tokens.items()}
    with_keys = 2 * 12 + 38 * 3
    expected = dict.fromkeys(
        ("dynfocus", "answers_only", "likelihood", "blind", "uniform", "random", "oracle"), with_keys
    )
    assert lengths == {**expected, "dense": 40 * 12, "rods_only": 24, "cones_only": 38 * 3, "pooled": 48}
    assert keys["uniform"] == [2, 6, 10] and {4, 5} < set(keys["oracle"])
    assert keys["dense"] == list(range(12))
    # The parts are those of the whole: rods and cones of the dense row, one after the other for each frame.
    frames = tokens["dense"].unflatten(0, (12, 40))
    torch.testing.assert_close(tokens["rods_only"], frames[:, 38:].flatten(0, 1))
    of_oracle = torch.cat([frames[t] if t in keys["oracle"] else frames[t, 38:] for t in range(12)])
    torch.testing.assert_close(tokens["oracle"], of_oracle)
    chosen = torch.cat([frames[t, :38] for t in keys["cones_only"]])
    torch.testing.assert_close(tokens["cones_only"], chosen)


def test_random_key_frames_follow_from_the_seed(focus, tiny):
    chosen = {seed: visual_tokens(focus, tiny, "random", seed=seed)[1] for seed in range(6)}
    assert visual_tokens(focus, tiny, "random", seed=3)[1] == chosen[3]
    assert len({tuple(frames) for frames in chosen.values()}) > 3


def test_the_base_trains_the_layout_of_every_row(focus, tiny):
    """Its parts are those of all rows, and in a row's layout it gives the tokens that the row itself gives."""
    from rounds import ROUNDS

    layouts, _, _ = focus
    model = copy.deepcopy(tiny[0])
    layouts.lay_out(model, layouts.BASE)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name in dict.fromkeys(name for one in ROUNDS for name in one.mixture):
        layout = layouts.ROWS[name]
        row = copy.deepcopy(tiny[0])
        layouts.lay_out(row, layout)
        blind = {name.replace("blind_scorer", "scorer"): weights[name] for name in weights if "blind_scorer" in name}
        own = weights if layout.selector != "blind" else {**weights, **blind}
        row.load_state_dict({key: own[key] for key in row.state_dict()})
        tokens, keys = zip(*(tokens_and_keys(focus, one, layout) for one in (model, row)), strict=True)
        assert keys[0] == keys[1]
        torch.testing.assert_close(*tokens)
        choice = layouts.choice_of(layout, torch.zeros(1, 12), 3, 0)
        with torch.no_grad():
            state = model.encode_video(torch.randn(1, 12, 3, 64, 64))
            plan = torch.tensor([layout.plan(12, 3).as_row()])
            question = torch.tensor([[5, 6, 7]])
            model.get_video_features(
                video_state=state, video_token_plan=plan, question_input_ids=question, choose=choice
            )
        assert choice.aware is not None and choice.blind is not None, "both selectors learn, whoever chooses"
    assert model.model.cooperative_encoder.score_embedding is not None


def test_lessons_are_drawn_by_their_shares(focus):
    layouts, _, row_training = focus
    from sizes import Part

    short, long = Part(32, 1, 300, 32, (4,)), Part(128, 1, 100, 8, (8,))
    lessons = [(short, "short"), (long, "long")]
    mixture = {layouts.ROWS["dynfocus"]: 1.0, layouts.ROWS["dense"]: 3.0}
    draw = row_training.at_random(mixture, lessons, 32)
    found = [draw(np.random.default_rng(seed), 0) for seed in range(400)]
    dense = [one for one in found if one.layout.name == "dense"]
    others = [one for one in found if one.layout.name == "dynfocus"]
    assert 260 < len(dense) < 340
    assert {(one.part.num_frames, one.part.batch_size, one.batches) for one in dense} == {(32, 8, "short")}
    assert 0.6 < np.mean([one.part is short for one in others]) < 0.9
    # A row alone takes its parts as they are; two rows of one seed the same ones.
    alone = [row_training.at_random({layouts.ROWS[name]: 1.0}, lessons, 128) for name in ("dense", "blind")]
    parts = [[draw(np.random.default_rng(seed), 0).part for seed in range(50)] for draw in alone]
    assert parts[0] == parts[1] and {part.batch_size for part in parts[0]} == {32, 8}
    # But for videos that are too long to be kept in full.
    dense = row_training.at_random({layouts.ROWS["dense"]: 1.0}, lessons, 32)
    assert {dense(np.random.default_rng(seed), 0).part for seed in range(50)} == {short}


def test_the_question_of_the_selector_is_asked_alone(focus, tiny, tmp_path):
    """In the share of steps that says so, and only where the tokens tell how well they fit that question."""
    layouts, _, row_training = focus
    from recipe.answers import AnswerTraining
    from recipe.data import EncodedVideos, QuestionBatches, VideoSet
    from sizes import Part

    model, processor = copy.deepcopy(tiny[0]), tiny[1]
    features = EncodedVideos(model, VideoSet(21, 4, 8), tmp_path / "train8")
    batches = QuestionBatches(features, processor, 8, turns=4)
    layouts.lay_out(model, layouts.BASE)
    chats, write = [], batches.writer.write
    batches.writer.write = lambda turns, *args: chats.append([len(one) for one in turns]) or write(turns, *args)

    def questions(name, guidance):
        lesson = row_training.Lesson(layouts.ROWS[name], Part(8, 4, 1, 3, (2,)), batches)
        rng, settings = np.random.default_rng(0), AnswerTraining(bf16=False)
        losses = row_training.step_losses(model, lesson, settings, rng, "cpu", 0, guidance)
        assert all(loss.isfinite() for loss in losses.values())
        return chats.pop()

    always = row_training.Guidance(alone=1.0)
    assert questions("dynfocus", always) == [1] * 6
    for several in (
        questions("dynfocus", row_training.Guidance(alone=0.0)),
        questions("uniform", always),
        questions("dynfocus", None),
    ):
        assert len(several) == 3 and max(several) > 1


def test_videos_are_encoded_when_needed_and_once(tiny, tmp_path):
    """Features do not depend on which other videos are encoded, or in which order, and all who use a folder share."""
    from recipe.data import EncodedVideos, VideoSet

    videos = VideoSet(21, 5, 8)
    one, all_at_once = (EncodedVideos(tiny[0], videos, tmp_path / name) for name in ("one", "all"))
    beside = EncodedVideos(tiny[0], videos, tmp_path / "one")
    expected = all_at_once.batch(np.arange(5), "cpu").tensors()
    assert not one.encoded.any()
    single = [one.batch(np.array([row]), "cpu").tensors() for row in (3, 1)]
    assert one.encoded.tolist() == [False, True, False, True, False]
    for name, tensor in expected.items():
        torch.testing.assert_close(torch.cat([found[name] for found in single]), tensor[[3, 1]], msg=name)
    assert not expected["frame_features"][3].equal(expected["frame_features"][1])

    beside.model = None
    shared = beside.batch(np.array([3, 1]), "cpu").frame_features
    assert shared.equal(torch.cat([found["frame_features"] for found in single]))
    with pytest.raises(AttributeError):
        beside.batch(np.array([0]), "cpu")


def test_differences_are_paired_over_videos():
    def asked(row, right):
        records = [
            {"video": i // 2, "kind": "number", "right": bool(one), "found": None} for i, one in enumerate(right)
        ]
        return Asked(row, 32, 4, 216, {1: records, 2: records})

    ours, other = asked("a", [1, 1, 1, 0] * 10), asked("b", [1, 0, 1, 0] * 10)
    interval = difference(ours, other)
    assert interval.estimate == pytest.approx(0.25) and 0 < interval.low < 0.25 < interval.high < 0.5
    assert ours.shares("number") == [0.75, 0.75] and ours.shares("color") == []
    assert percent([0.5, 0.7]) == "60.0 (50.0–70.0)"


def test_answers_are_read_as_they_were_written(focus, tmp_path):
    results = focus[1]
    records = [
        {"video": 0, "kind": "number", "right": True, "found": False},
        {"video": 3, "kind": "count", "right": False, "found": None},
    ]
    answers = [{"frames": 32, "key_frames": 4, "tokens": 216, "records": records}]
    results.write_row(tmp_path / "uniform-2.json", "uniform", 2, 1.0, answers)
    found = results.read_rows(tmp_path)
    assert found == {("uniform", 32, 4): Asked("uniform", 32, 4, 216, {2: records})}
    read = found["uniform", 32, 4].seeds[2]
    assert [type(one["right"]) for one in read] == [bool, bool] and type(read[0]["found"]) is bool
    assert [path.name for path in tmp_path.iterdir()] == ["uniform-2.json"]


def test_goals_say_what_is_met():
    """Rows whose answers are known: what is measured stands in the text, and the verdict follows from it."""
    from goals import goals
    from sizes import SIZES

    def asked(row, frames, tokens, wrong, found=1.0):
        """40 detail questions, of which the first `wrong` are wrong, and 40 of another kind, all right."""
        records = [
            {"video": i, "kind": kind, "right": kind == "color" or i >= wrong, "found": i < found * 40}
            for kind in ("number", "color")
            for i in range(40)
        ]
        return Asked(row, frames, 8, tokens, {1: records})

    def verdicts(ours, **others):
        rows = {128: {"dynfocus": ours, **others}, 512: {"dynfocus": asked("dynfocus", 512, 100, 0, 0.9)}}
        return [met for _, met in goals(lambda frames: rows.get(frames, {}), SIZES["full"])]

    dense, uniform = asked("dense", 128, 1000, 0), asked("uniform", 128, 100, 20)
    # dense, tokens, uniform's details and kinds, recall, recall far away, oracle
    ours = asked("dynfocus", 128, 100, 0)
    assert verdicts(ours, dense=dense, uniform=uniform, oracle=dense) == [True] * 5 + [False, True]
    ours = asked("dynfocus", 128, 400, 15, 0.9)
    assert verdicts(ours, dense=dense, uniform=uniform, oracle=dense) == [
        False,
        False,
        False,
        True,
        False,
        True,
        False,
    ]
    assert verdicts(asked("dynfocus", 128, 100, 21), uniform=uniform)[:2] == [False, False]
    for wrong, found, met in ((2, 0.95, [True, True]), (3, 0.85, [False, False])):
        rows = {"likelihood": asked("likelihood", 128, 100, wrong, found)}
        assert verdicts(asked("dynfocus", 128, 100, 0), **rows)[-2:] == met
    assert not list(goals(lambda frames: {}, SIZES["full"]))


def compare(work, *options):
    return run(FOCUS, "--work", work, "--size", "smoke", "--no-compile", "--seed", "1", *options)


def rows_in(work):
    """What the rows answered, each of them both lengths of videos but for the one that keeps all tokens."""
    rows = {path.stem: json.loads(path.read_text()) for path in (work / "rows").glob("*.json")}
    for row in rows.values():
        questions = {(one["frames"], len(one["records"]["kind"])) for one in row["answers"]}
        assert len(questions) == (1 if row["row"] == "dense" else 2)
        assert all(set(one["records"]["right"]) <= {0, 1} for one in row["answers"])
    return rows


def times_in(folder, pattern):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob(pattern)}


def assert_saved(checkpoint):
    names = {path.name for path in checkpoint.iterdir()}
    assert {"model.safetensors", "config.json", "processor_config.json"} <= names


def test_rows_and_a_checkpoint_are_trained_from_a_kept_start(tmp_path):
    start = ("--start", FOCUS / "shared_start.safetensors")
    compare(tmp_path, *start, "--row", "dynfocus")
    # Features are added to their files as videos are needed.
    written = times_in(tmp_path, "**/*.[jms]*")
    compare(tmp_path, *start, "--row", "dynfocus", "--row", "dense", "--checkpoint", tmp_path / "tiny")
    assert_saved(tmp_path / "tiny")
    before, after = (load_file(path) for path in (start[1], tmp_path / "tiny" / "model.safetensors"))
    trained = {name for name in after if not torch.equal(before[name], after[name])}
    assert not any("vision_tower" in name for name in trained)
    assert any("layers.3" in name for name in trained) and any("rods" in name for name in trained)
    # The selector is fixed but for its own training.
    selected = {"question_encoder", "event_prototypes"}
    learned = torch.load(tmp_path / "absence.partial", weights_only=True)["model"]
    of_selector = [after[name] for name in trained if name.split(".")[1] in selected and "word_emb" not in name]
    assert of_selector and all(any(torch.equal(one, kept) for kept in learned.values()) for one in of_selector)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tiny")
    assert len(tokenizer(" unanswerable")["input_ids"]) == 1
    assert len(after["model.language_model.embed_tokens.weight"]) == len(tokenizer)
    compare(tmp_path, *start, "--row", "dynfocus", "--row", "dense")
    assert rows_in(tmp_path).keys() == {"dynfocus-1", "dense-1"}
    assert times_in(tmp_path, "**/*.[jms]*").items() >= written.items()


def test_the_page_shows_the_answers_that_are_kept(tmp_path):
    pages = {name: (FOCUS.parents[1] / "docs" / name).read_bytes() for name in ("results.md", "results_in_detail.md")}
    for name, page in pages.items():
        (tmp_path / name).write_bytes(page)
    text = run(FOCUS / "table.py", "--docs", tmp_path)
    assert pages == {name: (tmp_path / name).read_bytes() for name in pages}
    assert text.count("| `rods_only` ") == 9 and len(list((tmp_path / "images").glob("*.png"))) == 12


@pytest.mark.slow
def test_every_row_runs_and_a_stopped_run_goes_on(tmp_path):
    """From nothing, all rows with two steps each; then the tables of what they answered."""
    compare(tmp_path, "--base-only")
    written = times_in(tmp_path, "*.safetensors")
    assert {"vision.safetensors", "base.safetensors"} <= written.keys()
    compare(tmp_path)
    assert times_in(tmp_path, "*.safetensors").items() >= written.items()
    assert len(rows_in(tmp_path)) == 12
    compare(tmp_path, "--checkpoint", tmp_path / "tiny")
    assert_saved(tmp_path / "tiny")
    text = run(FOCUS / "table.py", "--rows", tmp_path / "rows", "--size", "smoke")
    assert text.count("| `rods_only` ") == 6
    # Of the goals, those that compare with dense have none at the longer of two lengths.
    assert len(re.findall("^- (met|MISSED): ", text, re.MULTILINE)) == 13


def test_first_tokens_are_timed_and_drawn(tmp_path):
    plot, found = tmp_path / "first.png", tmp_path / "first.json"
    words = ("--frames", "16", "--key-frames", "2", "--rounds", "1", "--plot", plot, "--json", found)
    run(FOCUS / "first_token.py", *words)
    assert plot.read_bytes().startswith(b"\x89PNG")
    rows = {line[0]: line[1:] for line in json.loads(found.read_text())["tables"][0]["rows"]}
    # Tokens of 16 frames: 2 a frame and 38 a key frame.
    assert rows["dense"] == ["640", "1x"] and rows["dynfocus"][0] == rows["uniform"][0] == "108"
