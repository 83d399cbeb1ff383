"""The measurement of chosen frames in front of stock models: what its rows ask, and a run of some of them."""

import contextlib
import importlib
import io
import re
import runpy
import sys
from fractions import Fraction
from pathlib import Path
from unittest import mock

import pytest
import torch
from adopted_models import stock
from tiny_dual_encoders import save_dual_encoder

pytestmark = pytest.mark.integration

ADOPTION = Path(__file__).parents[2] / "benchmarks" / "adoption"
sys.path.append(str(ADOPTION))
asking, grid, kept, measure, verdicts = (
    importlib.import_module(name) for name in ("asking", "grid", "kept_answers", "measure", "verdicts")
)


PAGES = ("results.md", "results_in_detail.md")


def copy_pages(folder):
    """Copies the pages of results; returns what they hold."""
    pages = [(ADOPTION.parents[1] / "docs" / name).read_text("utf-8") for name in PAGES]
    for name, page in zip(PAGES, pages, strict=True):
        (folder / name).write_text(page, "utf-8")
    return pages


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Random models in folders, as the measurement loads them, and two videos."""
    folder = tmp_path_factory.mktemp("models")
    for name in grid.COARSE:
        for part in stock(name):
            part.save_pretrained(folder / name)
    save_dual_encoder("siglip", folder / "siglip")
    return measure.Bench(folder, tmp_path_factory.mktemp("work"), videos=2)


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    """What random models generate is noise."""
    monkeypatch.setattr(asking, "NEW_TOKENS", 2)


def row(model="qwen3_vl", rule="peaks", **settings):
    return grid.Row(model, 8, rule, **settings)


def measured(bench, *rows):
    """What each row's file holds, and when it was written."""
    measure.run(bench, list(rows))
    paths = [bench.work / "rows" / f"{one.name}.json" for one in rows]
    return [kept.read_row(path) for path in paths], [path.stat().st_mtime_ns for path in paths]


def tabulated(*options):
    """What `table.py` prints."""
    words = ["table.py", *map(str, options)]
    with mock.patch.object(sys, "argv", words), contextlib.redirect_stdout(io.StringIO()) as out:
        runpy.run_path(str(ADOPTION / "table.py"), run_name="__main__")
    return out.getvalue()


def test_rows_are_within_their_budget_and_tabulated(bench, tmp_path):
    rows = [row(rule=rule) for rule in ("uniform", "peaks", "told")]
    rows += [row(coarse="panels", budget="1/3", per_key=most) for most in (8, 1)]
    rows += [row(signal="other"), row("llava_onevision")]
    rows += [row(model, "uniform", budget=budget) for model in grid.COARSE for budget in ("1/2", "dense")]
    for found in measured(bench, *rows)[0]:
        is_dense = found["budget"] == "dense"
        if found["budget"] == "1/2":
            assert all(one["tokens"] <= one["dense_tokens"] / 2 and one["key_frames"] > 2 for one in found["records"])
            continue
        assert {"number", "order", "existence"} <= {record["kind"] for record in found["records"]}
        for record in found["records"]:
            assert record["tokens"] <= record["dense_tokens"] * (1 if is_dense else Fraction(found["budget"]))
            assert record["key_frames"] == (8 if is_dense else 1)
            if is_dense or (found["rule"] == "told" and record["kind"] == "number"):
                assert record["found"] in (True, None)
            elif record["kind"] in ("order", "locating"):
                assert not record["found"], "two events, and one key frame"
    text = tabulated("--rows", bench.work / "rows", "--keep", tmp_path)
    assert all(text.count(f"**`{name}`, 8 frames, seed 301") == 1 for name in grid.COARSE)
    # In the tables of all questions and of details; of the other model only two.
    assert [text.count(f"| `{rule}`") for rule in ("uniform", "peaks", "told")] == [4, 4, 2]
    copy_pages(tmp_path)
    assert tabulated("--rows", tmp_path, "--docs", tmp_path) == text
    page = "".join((tmp_path / name).read_text("utf-8") for name in PAGES)
    assert all(part in page for part in text.strip().split("\n\n"))
    assert {f"adoption_{name}_8_all.png" for name in grid.COARSE} < {
        one.name for one in (tmp_path / "images").iterdir()
    }


def test_a_row_without_signal_is_asked_the_same(bench, monkeypatch):
    """Only the choice of its frames has another question."""
    asked = []
    answer = measure.FocusedModel.answer

    def seen(model, rows, **settings):
        asked.append([(one["messages"][0]["content"], one["question"]) for one in rows])
        return answer(model, rows, **settings)

    monkeypatch.setattr(measure.FocusedModel, "answer", seen)
    for signal in ("own", "other"):
        bench.measure(row(signal=signal))
    (own, other) = asked
    assert [said for said, _ in own] == [said for said, _ in other] == [by for _, by in own]
    first, second = bench.made_set(bench.model("qwen3_vl", "none"), row()).questions
    texts = [{question.question for question in several} for several in (first, second)]
    assert {by for _, by in other[: len(first)]} <= texts[1] and {by for _, by in other[len(first) :]} <= texts[0]


def test_a_stopped_run_continues(bench, monkeypatch):
    """Finished rows are kept, unless weights or number of videos are other ones."""
    rows = [row(coarse="none"), row("llava_onevision", coarse="none")]
    before = measured(bench, rows[0])[1]
    found, after = measured(bench, *rows)
    assert after[0] == before[0]
    monkeypatch.setattr(bench, "videos", 1)
    assert measured(bench, rows[0])[0][0]["videos"] == 1
    monkeypatch.undo()
    measure.weights_digest.cache_clear()
    with (bench.models / "siglip" / "more.safetensors").open("wb") as file:
        file.write(b"other weights")
    again, newest = measured(bench, *rows)
    assert all(new > old for new, old in zip(newest, after, strict=True))
    assert {one["weights"] for one in again}.isdisjoint(one["weights"] for one in found)


def test_a_row_of_another_process_is_left_to_it(bench):
    one = row(rule="mmr")
    with measure.claimed(bench.work / "locks" / one.name):
        measure.run(bench, [one])
    assert not (bench.work / "rows" / f"{one.name}.json").exists()


def test_a_row_that_does_not_fit_has_no_answers(bench, capsys):
    """Not even a key frame, or no coarse picture beside it: one line says so."""
    for one, reason in (
        (row(budget="1/16"), "one key frame costs"),
        (row("llava_onevision", coarse="panels"), "have no room for a coarse picture"),
    ):
        measure.run(bench, [one])
        said = capsys.readouterr().out
        assert f"{one.name} is not measured: " in said and reason in said
        assert not (bench.work / "rows" / f"{one.name}.json").exists()


def test_dense_is_what_the_stock_processor_makes(bench, monkeypatch):
    """The check fails if frames, times or sizes differ."""
    model = bench.model("qwen3_vl", "none")
    made = bench.made_set(model, row())
    most = model.token_range(made.states[0])[2]
    asking.check_dense(model, made.states[0], "What is shown?", most)
    for name, value in (("pair_seconds", 0.25), ("tokens_per_key_frame", 4)):
        other = bench.model("qwen3_vl", "none")
        stock_of = asking.stock_inputs(other, made.states[0], "What is shown?")
        monkeypatch.setattr(other.focus_processor, name, value)
        monkeypatch.setattr(asking, "stock_inputs", lambda *_, found=stock_of: found)
        with pytest.raises(RuntimeError, match="differs from that of the stock processor"):
            asking.check_dense(other, made.states[0], "What is shown?", most)


def test_the_oracle_shows_the_asked_events():
    def chosen(events, num_key, length=16):
        flat = torch.zeros(length)
        return asking.told(events)(flat, num_key, features=flat[:, None], times=flat).tolist()

    assert chosen([range(4, 7)], 1) == [5]
    assert chosen([range(4, 7), range(10, 12)], 2) == [5, 11]
    assert chosen([range(4, 7), range(10, 12)], 5) == [4, 5, 6, 10, 11]
    # Of more events than key frames, evenly spread ones; without events, the frames of the rule "uniform".
    assert chosen([range(n, n + 1) for n in range(8)], 2) == [2, 6]
    assert chosen([], 4) == [2, 6, 10, 14]
    filled = chosen([range(4, 7)], 8)
    assert len(filled) == 8 and {4, 5, 6} < set(filled) and filled[-1] > 12
    assert chosen([range(14, 17)], 20) == list(range(16))


def test_the_list_has_each_row_once_and_no_kept_seed():
    rows = grid.rows_of("all")
    assert len({row.name for row in rows}) == len(rows) == len(set(rows))
    main = grid.rows_of("main", ("llava_onevision",))
    # Eight rules with and without panels, four rows without signal, and a dense one.
    assert len(main) == 3 * (8 * 2 + 4 + 1) and {row.frames for row in main} == {128}
    # First those that the goals compare, of all seeds.
    first = main[: 3 * 13]
    assert {row.rule for row in first} == {*grid.MAIN_RULES} and len({row.seed for row in first[:13]}) == 1
    assert [row.budget for row in main].index("dense") < 13 and all(row.budget != "dense" for row in main[3 * 13 :])
    with pytest.raises(ValueError, match="Seeds from 500"):
        grid.Row("qwen3_vl", seed=501)
    with pytest.raises(ValueError, match="none, panels for llava_onevision, not 'low'"):
        grid.Row("llava_onevision", coarse="low")
    with pytest.raises(ValueError, match="'dense' .all tokens. or a share below 1 such as 1/6, not '1'"):
        grid.Row("llava_onevision", budget="1")


def made_up(way, right_of, *, tokens=100, seeds=(301, 302), videos=20, weights="a-b"):
    """A row's answers, right where `right_of(kind, video)` says so."""
    kinds = ("number", "order", "count", "existence")
    records = [
        {"video": video, "kind": kind, "right": right_of(kind, video), "found": None if kind == "count" else True}
        | {"tokens": tokens, "dense_tokens": 600, "key_frames": 4}
        for video in range(videos)
        for kind in kinds
    ]
    settings = dict(zip(("model", "frames", "rule", "coarse", "budget", "signal"), way, strict=True))
    return [{**settings, "seed": seed, "videos": videos, "weights": weights, "records": records} for seed in seeds]


def test_answers_are_kept_in_full():
    way = ("qwen3_vl", 128, "peaks", "low", "1/6", "own")
    (row,) = made_up(way, lambda kind, video: (len(kind) + video) % 3 == 0, seeds=(301,))
    # A video without a question of the first kind, and tokens that differ.
    row["records"] = [{**one, "tokens": 90 + n} for n, one in enumerate(row["records"][1:])]
    again = kept.unpacked(kept.packed(row))
    by_question = [{(one["video"], one["kind"]): one for one in found["records"]} for found in (row, again)]
    assert by_question[0] == by_question[1] and len(again["records"]) == 79
    assert {key: again[key] for key in again if key != "records"} == {key: row[key] for key in row if key != "records"}


def goals_of(peaks=1.0, uniform=0.5, told=1.0, dense=1.0, blind=0.5, wide=1.0, tokens=100):
    """Goals for shares of right answers on details; all others are right, except those of `peaks` on order."""

    def share(value):
        return lambda kind, video: kind != "number" or video < 20 * value

    def of_peaks(kind, video):
        return share(peaks)(kind, video) and (kind != "order" or video < 20 * wide)

    def way(rule, coarse="low", budget="1/6", signal="own"):
        return ("qwen3_vl", 128, rule, coarse, budget, signal)

    rows = [
        *made_up(way("peaks"), of_peaks, tokens=tokens),
        *made_up(way("uniform"), share(uniform)),
        *made_up(way("told"), share(told)),
        *made_up(way("uniform", "none", "dense"), share(dense), tokens=600),
        *made_up(way("peaks", signal="other"), share(blind)),
    ]
    return list(verdicts.verdicts(verdicts.by_way(rows), "qwen3_vl", "peaks", "low"))


def test_goals_say_what_is_met():
    texts, found = zip(*goals_of(), strict=True)
    values, met = zip(*found, strict=True)
    assert (
        all(met) and values[0] == "16.7 %" and values[1].startswith("+50.0 (+2") and "no answer differs" in values[2]
    )
    changed = {
        "of the tokens": {"tokens": 101},
        "on details: +30": {"uniform": 0.75},
        "*order*": {"wide": 0.9},
        "`told`": {"peaks": 0.9},
        "against `dense`": {"dense": 1.0, "peaks": 0.9},
        "another video": {"blind": 0.3},
    }
    for words, changes in changed.items():
        (place,) = (place for place, text in enumerate(texts) if words in text)
        assert not goals_of(**changes)[place][1][1], words
    value, is_met = goals_of(uniform=0.65)[1][1]
    assert value.startswith("+35.0") and not is_met, "the lower end of the interval is not above 20"


def test_the_page_shows_the_answers_that_are_kept(tmp_path):
    pages = copy_pages(tmp_path)
    tabulated("--docs", tmp_path)
    assert pages == [(tmp_path / name).read_text("utf-8") for name in PAGES]
    images = {path.name for path in (tmp_path / "images").iterdir()}
    assert set(re.findall(r"images/(adoption_\w+\.png)", "".join(pages))) <= images


def test_rows_of_other_weights_are_not_compared():
    way = ("qwen3_vl", 128, "peaks", "low", "1/6", "own")
    rows = made_up(way, lambda kind, video: True) + made_up(way, lambda kind, video: True, weights="c-b")
    with pytest.raises(ValueError, match="different weights"):
        verdicts.by_way(rows)
