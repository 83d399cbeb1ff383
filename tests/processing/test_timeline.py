"""The timeline of an answer: what is drawn where, for any number of frames, key frames and words."""

import json
import pickle
import re
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from videos import barcode_frames, read_barcode, write_video

from dynfocus.processing import lettering
from dynfocus.processing.answers import Answer
from dynfocus.processing.clock import clock_time
from dynfocus.processing.timeline import (
    _caption,
    _ThumbnailGrid,
    pictured,
    pictures_of,
    read_thumbnails,
    score_text,
    spread,
    timeline_figure,
)

SCORES = [0.9, 0.1, 0.5]


def make_answer(num_frames=12, scores=SCORES, selected=None, **more):
    """Events of equal length, in reverse order; each selected one has its first frame as key frame."""
    size = num_frames // len(scores)
    selected = [True] * len(scores) if selected is None else selected
    events, key_frames = [], []
    for number, score in enumerate(scores):
        frames = list(range(number * size, (number + 1) * size))
        events.insert(0, {"frames": frames, "medoid": frames[0], "score": score, "selected": selected[number]})
        if selected[number]:
            key_frames.append({"index": frames[0], "time": float(frames[0]), "score": score})
    answer = {"answer": "472", "score": 0.9, "key_frames": key_frames, "num_visual_tokens": 138}
    times = [[float(second) for second in range(num_frames)]]
    return Answer(**{**answer, "num_dense_tokens": 480, "frame_times": times, "events": events, **more})


def stock_answer(num_frames=12, key=(2, 7), coarse=(0, 4, 9)):
    relevance = [float(value) for value in np.linspace(0, 1, num_frames)]
    key_frames = [{"index": i, "time": float(i), "score": relevance[i]} for i in key]
    events = [{"frames": [i], "medoid": i, "score": relevance[i], "selected": True} for i in key]
    more = {"key_frames": key_frames, "events": events, "relevance": [relevance], "coarse_frames": [list(coarse)]}
    return make_answer(num_frames, **more)


def texts(figure):
    return [text.get_text() for part in (figure, *figure.axes) for text in part.texts]


def images(count, shape=(48, 64, 3)):
    return [np.full(shape, 99, np.uint8)] * count


def axes_named(figure, name):
    (found,) = (axes for axes in figure.axes if axes.get_ylabel().startswith(name))
    return found


def test_words_and_pictures_are_drawn():
    result = {**make_answer(answer="x_1^").as_dict(), "question": "$1 or 2$?"}
    figure = timeline_figure(result, images(3))
    figure.canvas.draw()
    assert {"$1 or 2$?", "x_1^", "3 key frames: time and score"} <= set(texts(figure))
    assert {clock_time(frame["time"]) for frame in result["key_frames"]} <= set(texts(figure))
    assert any("138 visual tokens of 480 (29%)" in text for text in texts(figure))
    assert sum(len(axes.images) for axes in figure.axes) == 3
    without = timeline_figure(result)
    assert sum(len(axes.images) for axes in without.axes) == 0
    assert without.get_figheight() < figure.get_figheight()


def test_an_event_that_returns_has_a_band_for_each_run_and_a_number_in_time_order():
    events = [
        {"frames": [2, 3], "medoid": 2, "score": 0.1, "selected": False},
        {"frames": [0, 1, 4, 5], "medoid": 1, "score": 0.9, "selected": True},
    ]
    figure = timeline_figure(make_answer(6, events=events, key_frames=[]).as_dict())
    bands = axes_named(figure, "events")
    assert [(band.get_x(), band.get_width()) for band in bands.patches] == [(0, 2), (2, 2), (4, 2)]
    assert [text.get_text() for text in bands.texts] == ["1", "2", "1"]
    assert any("same number" in text for text in texts(figure))
    once = timeline_figure(make_answer().as_dict())
    assert [text.get_text() for text in axes_named(once, "events").texts] == ["1", "2", "3"]
    assert not any("same number" in text for text in texts(once))


def lightness(color):
    return float(np.dot(color[:3], (0.299, 0.587, 0.114)))


def contrast(one, other):
    """That of two colors, 1…21: WCAG 2.2, section 1.4.3."""
    lighter, darker = sorted((luminance(to_rgb(color)) for color in (one, other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(color):
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in color]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_kinds_of_events_and_neighbours_differ_in_lightness(dark):
    """So they do in print, and for readers who do not see colors."""
    answer = make_answer(40, scores=[0.5] * 20, selected=[number % 4 < 2 for number in range(20)])
    bands = axes_named(timeline_figure(answer.as_dict(), dark=dark), "events").patches
    shades = [lightness(band.get_facecolor()) for band in bands]
    assert all(abs(a - b) > 0.07 for a, b in pairwise(shades))
    key, rest = ([shade for number, shade in enumerate(shades) if (number % 4 < 2) == kind] for kind in (True, False))
    assert max(rest) + 0.25 < min(key) if dark else max(key) + 0.25 < min(rest)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("make", [make_answer, stock_answer], ids=["DynFocus", "stock"])
def test_words_and_lines_stand_out(dark, make):
    answer = make() if make is stock_answer else make(scores=[0.9, 1e-4, 0.5], selected=[True, True, False])
    result = {**answer.as_dict(), "question": "Which number 号?"}
    figure = timeline_figure(result, images(2), dark=dark)
    paper = figure.get_facecolor()
    assert (luminance(to_rgb(paper)) < 0.05) == dark
    assert not any(axes.patch.get_visible() for axes in figure.axes)
    words = [text for text in figure.findobj(Text) if text.get_text()]
    numbers = []
    if make is make_answer:
        bands = axes_named(figure, "events")
        numbers = list(bands.texts)
        assert len(numbers) == len(bands.patches) == 3
        for number, band in zip(numbers, bands.patches, strict=True):
            assert contrast(number.get_color(), band.get_facecolor()) >= 4.5
    assert len(words) > 20
    assert all(contrast(text.get_color(), paper) >= 4.5 for text in words if text not in numbers)
    shown = axes_named(figure, "shown")
    marks = [mark.get_facecolor() for mark in shown.patches] + [mark.get_facecolor()[0] for mark in shown.collections]
    assert all(contrast(mark, paper) >= 3 for mark in marks)


def test_small_scores_are_told_apart_on_a_named_axis():
    axes = axes_named(timeline_figure(make_answer(scores=[0.999, 1e-4, 1e-6]).as_dict()), "event score")
    assert "log" in axes.get_ylabel()
    heights = [dot.get_ydata()[0] for dot in axes.lines if len(dot.get_xdata()) == 1]
    places = axes.transData.transform([(0, height) for height in heights])[:, 1]
    assert places[0] - places[1] > 20 and places[1] - places[2] > 10
    assert axes.get_yticks()[0] == 1 and axes.get_yticklabels()[0].get_text() == "1"
    linear = axes_named(timeline_figure(make_answer().as_dict()), "event score")
    assert "log" not in linear.get_ylabel() and linear.get_yticks().tolist() == [0, 0.5, 1]
    # Not even 0 and 1e-40 leave the axis.
    axes = axes_named(timeline_figure(make_answer(scores=[0.999, 0.0, 1e-40]).as_dict()), "event score")
    assert min(dot.get_ydata()[0] for dot in axes.lines if len(dot.get_xdata()) == 1) >= axes.get_ylim()[0] > 0


def test_relevance_and_what_was_shown_of_a_stock_model():
    result = stock_answer().as_dict()
    figure = timeline_figure(result)
    relevance, shown = axes_named(figure, "relevance"), axes_named(figure, "shown")
    line = next(one for one in relevance.lines if len(one.get_xdata()) == 12)
    assert line.get_ydata().tolist() == result["relevance"]
    # A frame a second, and marks in the middle of each.
    assert line.get_xdata().tolist() == [second + 0.5 for second in range(12)]
    dots = [(one.get_xdata()[0], one.get_ydata()[0]) for one in relevance.lines if len(one.get_xdata()) == 1]
    assert dots == [(index + 0.5, result["relevance"][index]) for index in (2, 7)]
    (ticks,) = shown.collections
    assert [path.vertices[:, 0].mean() for path in ticks.get_paths()] == pytest.approx([0.5, 4.5, 9.5], abs=0.02)
    bars = [bar for bar in shown.patches if bar.get_height() == 1]
    assert [bar.get_x() + bar.get_width() / 2 for bar in bars] == pytest.approx([2.5, 7.5])
    words = " ".join(texts(figure))
    assert "of 12 frames, 3 shown coarsely" in words and "event" not in words


def test_every_frame_of_a_dynfocus_model_is_shown_coarsely():
    for num_frames in (12, 3600):
        figure = timeline_figure(make_answer(num_frames).as_dict())
        (ticks,) = axes_named(figure, "shown").collections
        assert len(ticks.get_paths()) == (12 if num_frames == 12 else 1)


def test_what_cannot_be_drawn():
    result = make_answer().as_dict()
    with pytest.raises(ValueError, match="return_details=True"):
        timeline_figure({"answer": "7", "key_frames": []})
    with pytest.raises(ValueError, match="one video"):
        timeline_figure({**result, "events": []})
    with pytest.raises(ValueError, match="one video"):
        timeline_figure({**result, "events": [{"video": 0, **result["events"][0]}]})
    with pytest.raises(ValueError, match="1 thumbnails for 3 key frames"):
        timeline_figure(result, images(1))
    with pytest.raises(ValueError, match="at least 4 inches"):
        timeline_figure(result, width=2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=30), st.floats(0.0, 1.0))
def test_spread(wanted, tightness):
    wanted = np.sort(wanted)
    gap = tightness * 100 / max(1, len(wanted) - 1)
    found = spread(wanted, gap, 0.0, 100.0)
    assert np.all(np.diff(found) >= gap - 1e-6) and found.min() >= -1e-6 and found.max() <= 100 + 1e-6
    if np.all(np.diff(wanted) >= gap):
        assert np.allclose(found, wanted)


@pytest.mark.parametrize("shape", [(90, 160, 3), (64, 64, 3), (160, 90, 3)])
@pytest.mark.parametrize("width", [4.0, 7.5, 13.0])
@pytest.mark.parametrize("count", [1, 2, 5, 8, 16, 60])
def test_thumbnails_do_not_overlap(count, width, shape):
    key_frames = [{"score": score} for score in np.linspace(0, 1, count)]
    chosen = pictured(key_frames, width)
    # Those with the highest scores.
    assert chosen == list(range(count - len(chosen), count)) and chosen
    assert len(chosen) == count or len(chosen) >= width
    grid = _ThumbnailGrid([shape] * len(chosen), width - 1.2)
    assert grid.width > 0.8
    for times in (np.linspace(0, grid.space, len(chosen)), np.zeros(len(chosen)), np.full(len(chosen), grid.space)):
        left = grid.centres(times) - grid.width / 2
        assert left.min() > -1e-6 and left.max() + grid.width < grid.space + 1e-6
        for row in range(grid.rows):
            assert np.all(np.diff(left[row :: grid.rows]) > grid.width)
        # The connectors of the upper row pass between the thumbnails of the lower one.
        for centre in grid.centres(times)[1::2] if grid.rows == 2 else ():
            assert not np.any((left[::2] <= centre) & (centre <= left[::2] + grid.width))


def test_key_frames_without_a_picture_are_counted_and_marked():
    answer = make_answer(60, scores=np.linspace(0.2, 0.9, 60).tolist())
    figure = timeline_figure(answer.as_dict(), images(60))
    shown = sum(len(axes.images) for axes in figure.axes)
    assert 16 <= shown < 60
    assert _caption(shown, 60) in texts(figure) and f"+{60 - shown} more" in _caption(shown, 60)
    dots = [line for line in axes_named(figure, "event score").lines if len(line.get_xdata()) == 1]
    assert len(dots) == 60


@pytest.mark.parametrize("width", [4.4, 13.0])
@pytest.mark.parametrize("answer", ["472", "answer " * 60, "answer " * 900, "字" * 200, "x" * 300])
def test_all_words_of_an_answer_are_within_the_figure_one_line_below_the_other(answer, width):
    result = make_answer(answer=answer).as_dict()
    figure = timeline_figure({**result, "question": "what is it? " * 80}, images(3), width=width)
    figure.canvas.draw()
    words = [text for text in figure.texts if text.get_weight() == "bold"]
    assert "".join(text.get_text() for text in words).replace(" ", "").replace("□", "字") == answer.replace(" ", "")
    boxes = [text.get_window_extent() for text in figure.texts]
    assert max(box.x1 for box in boxes) < figure.bbox.width and min(box.y0 for box in boxes) > 0
    # Without the legend, whose items are side by side.
    heading = sorted((box.y0, box.y1) for box in boxes if box.y0 > figure.axes[-1].get_window_extent().y1)
    assert all(below < above for (_, below), (above, _) in pairwise(heading))
    questions = [text.get_text() for text in figure.texts if "what" in text.get_text()]
    assert questions[-1].endswith(" …") and len(questions) == 6


def test_letters_without_a_font_are_named(monkeypatch, recwarn):
    monkeypatch.setattr(lettering, "_letters_of", lambda file: frozenset(range(32, 256)))
    result = {**make_answer(answer="472 号").as_dict(), "question": "哪个\tnumber?"}
    figure = timeline_figure(result)
    figure.canvas.draw()
    words = texts(figure)
    assert "472 □" in words and "□□ number?" in words
    assert any("no font of this machine has (CJK)" in text for text in words)
    assert [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)] == []
    monkeypatch.setattr(lettering, "_letters_of", lambda file: frozenset(range(32, 0x9FFF)))
    assert "472 号" in texts(timeline_figure(result))


def test_small_scores_as_text():
    assert [score_text(score) for score in (1.0, 0.014, 0.004, 0.0)] == ["1.00", "0.01", "<0.01", "0.00"]


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """12 seconds, 2 frames a second; frame n shows n."""
    return str(write_video(tmp_path_factory.mktemp("films") / "a film.mp4", barcode_frames(24), fps=2))


def test_thumbnails_are_the_frames_shown_then(film):
    found = read_thumbnails(film, [0.0, 3.0, 3.2, 11.5], size=24)
    assert [read_barcode(image) for image in found] == [0, 6, 6, 23]
    assert {image.shape for image in found} == {(24, 32, 3)}
    # They are never made larger than they are.
    assert read_thumbnails(film, [1.0], size=500)[0].shape == (48, 64, 3)
    key_frames = [{"time": second / 10, "score": second / 100} for second in range(100)]
    few = pictures_of(film, key_frames, width=4)
    assert [index for index, image in enumerate(few) if image is not None] == pictured(key_frames, 4)


def test_an_answer_draws_itself_from_the_file_that_was_read(film):
    answer = make_answer(question="Which number?", sources=[film])
    figure = answer.plot()
    assert "Which number?" in texts(figure)
    assert [read_barcode(np.asarray(shown.get_array())) for axes in figure.axes for shown in axes.images] == [0, 8, 16]
    assert sum(len(axes.images) for axes in make_answer(sources=["gone.mp4"]).plot().axes) == 0
    assert sum(len(axes.images) for axes in make_answer().plot(video=film).axes) == 3
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4"):
        answer.plot(video="gone.mp4")


def test_what_the_pipeline_returns_is_a_dict_that_draws_itself(film):
    answer = make_answer(answer='<b>"4"</b>', question="Which?", sources=[film])
    result = answer.as_dict(details=False)
    assert isinstance(result, dict) and json.loads(json.dumps(result)) == result == {**result}
    assert "question" not in result and "sources" not in result
    assert sum(len(axes.images) for axes in result.plot().axes) == 3
    shown = result._repr_html_()
    assert shown == answer._repr_html_() and shown.startswith(
        '<img style="max-width: 100%" alt="Which? &lt;b&gt;&quot;'
    )
    again = pickle.loads(pickle.dumps(result))
    assert again == result and again.plot().get_figheight() > 0
    # What cannot be drawn is printed by a notebook.
    assert make_answer(events=[])._repr_html_() is None


def test_without_matplotlib_an_answer_is_printed(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in ("timeline", "lettering"):
        monkeypatch.delitem(sys.modules, f"dynfocus.processing.{name}", raising=False)
    answer = make_answer(sources=["gone.mp4"])
    with pytest.raises(ImportError, match=re.escape("pip install 'dynfocus[plot]'")):
        answer.plot()
    assert answer._repr_html_() is None
