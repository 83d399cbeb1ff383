"""What the page of `dynfocus demo` writes as HTML: answers with key frames and timeline, notes, errors, styles."""

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from dynfocus.processing.clock import clock_time, counted, percent
from dynfocus.processing.timeline import score_text, timeline_figure

from .studio import Film, Reply

_NARROW, _HALF, _WIDE = 4.4, 7.0, 12.0  # inches of a timeline
_DPI = 110

_RULE_NAMES = {
    "dpe": "learned scores",
    "peaks": "peaks of relevance",
    "context": "relevance with context",
    "uniform": "equal distances",
    "topk": "top relevance",
    "its": "inverse transform",
    "aks": "AKS",
    "mmr": "MMR",
}

STYLES = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; }
#video video { width: 100%; max-height: 56vh; object-fit: contain; background: #000; }
#video button[aria-label^="Trim"], #video button[aria-label^="Reset"] { display: none; }  /* need other hosts */
#tokens input[type=range]::-webkit-slider-thumb { box-sizing: border-box; border: 3px solid #2563eb; }
#tokens input[type=range]::-moz-range-thumb { box-sizing: border-box; border: 3px solid #2563eb; }
#examples { flex-wrap: wrap; }
#examples button { text-align: left; white-space: normal; min-width: 0; }
.df-error { border-left: 4px solid #b42318; padding: .6em .9em; margin: .3em 0; background: #b4231814; }
.df-replies { display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
.df-replies h3 { margin: 0 0 .2em; font-size: 1em; font-weight: 600; opacity: .8; }
.df-answer { font-size: 1.7em; line-height: 1.25; font-weight: 700; margin: .1em 0 .3em; overflow-wrap: anywhere; }
.df-answer.df-long { font-size: 1.1em; line-height: 1.45; }
.df-facts { display: flex; flex-wrap: wrap; gap: .2em 1.4em; margin: .3em 0; }
.df-meter { height: 10px; max-width: 480px; border: 1px solid currentColor; border-radius: 5px; overflow: hidden; }
.df-meter > span { display: block; height: 100%; min-width: 2px; background: #2f7fc1; }
.df-frames { display: flex; flex-wrap: wrap; gap: 8px; list-style: none; padding: 0; margin: .8em 0; }
.df-frames li { margin: 0; padding: 0; }
.df-frames button { display: block; width: 112px; padding: 3px; border: 1px solid #8a94a3; border-radius: 6px;
  background: none; color: inherit; font: inherit; font-size: .85em; cursor: pointer; text-align: center; }
.df-frames button:hover { border-color: #2f7fc1; }
.df-frames button:focus-visible { outline: 3px solid #2f7fc1; outline-offset: 1px; }
.df-frames button.df-best { border: 3px solid #2f7fc1; padding: 1px; font-weight: 700; }
.df-frames img { display: block; width: 100%; height: 72px; object-fit: contain; border-radius: 3px; margin: 0 0 2px; }
.df-timeline img { width: 100%; height: auto; border-radius: 6px; margin: .4em 0 0; }
.df-small { opacity: .8; font-size: .9em; margin: .2em 0; }
@media (max-width: 640px) { .df-frames button { width: 92px; } .df-frames img { height: 60px; } }
"""

# Key frames are buttons: a click, or the Enter key, lets the player jump.
SCRIPT = """<script>
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-seek]");
  const player = document.querySelector("#video video");
  if (!button || !player) return;
  player.currentTime = Number(button.dataset.seek);
  player.scrollIntoView({ block: "nearest" });
});
</script>"""


def replies_html(film: Film, replies: Sequence[Reply], screen_width: float, dark: bool = False) -> str:
    """
    Answers side by side, or below each other where the screen is narrow.

    Args:
        screen_width: pixels of the visitor's window.
        dark: whether the page is.
    """
    width = _NARROW if screen_width < 700 else _WIDE if len(replies) == 1 else _HALF
    sections = [_reply_html(film, reply, width, dark, named=len(replies) > 1) for reply in replies]
    return f'<div class="df-replies" role="status">{"".join(sections)}</div>'


def error_html(message: str) -> str:
    return f'<p class="df-error" role="alert">{html.escape(message)}</p>'


def film_html(film: Film) -> str:
    """What was read of a video."""
    (count,) = film.state.num_frames
    end = "" if film.state.frame_times is None else f" up to {clock_time(float(film.state.frame_times[0, -1]))}"
    words = f"{film.name}: {counted(count, 'frame')}{end}, read in {film.seconds:.1f} s. Ask as often as you like."
    notes = "".join(f'<p class="df-small" role="alert">{html.escape(note)}</p>' for note in film.notes)
    return f'<p role="status">{html.escape(words)}</p>{notes}'


def rule_name(rule: str) -> str:
    """How the page calls a rule of choice."""
    return _RULE_NAMES.get(rule, rule)


def _reply_html(film: Film, reply: Reply, width: float, dark: bool, named: bool) -> str:
    answer = reply.answer
    words = html.escape(answer.answer) or "(no answer)"
    size = " df-long" if len(answer.answer) > 60 else ""
    facts = [] if answer.score is None else [f"score <b>{answer.score:.2f}</b>"]
    facts.append(
        f"{counted(len(answer.key_frames), 'key frame')} of {counted(sum(map(len, answer.frame_times)), 'frame')}"
    )
    facts.append(f"answered in <b>{reply.seconds:.1f} s</b> (read before, in {film.seconds:.1f} s)")
    heading = f"<h3>Frames chosen by {html.escape(rule_name(reply.rule))}</h3>" if named else ""
    return (
        f'<section aria-label="Answer">{heading}<p class="df-answer{size}">{words}</p>'
        f'<p class="df-facts">{"".join(f"<span>{fact}</span>" for fact in facts)}</p>'
        f"{_tokens_html(answer)}{_frames_html(reply)}{_timeline_html(reply, width, dark)}</section>"
    )


def _tokens_html(answer: Any) -> str:
    spent, dense = answer.num_visual_tokens, answer.num_dense_tokens
    if spent is None:
        count = answer.num_prompt_tokens
        return "" if count is None else f"<p>{count:,} tokens in the prompt, by the server's count</p>"
    share = 100 * spent / dense
    words = f"<b>{spent:,}</b> visual tokens of {dense:,} ({percent(spent, dense)}%) that a dense model would take"
    meter = f'<div class="df-meter" aria-hidden="true"><span style="width: {min(share, 100):.2f}%"></span></div>'
    return f"<p>{words}</p>{meter}"


def _frames_html(reply: Reply) -> str:
    frames = reply.answer.key_frames
    best = max((frame["score"] for frame in frames), default=0.0)
    items = []
    for frame, picture in zip(frames, reply.thumbnails, strict=True):
        if picture is None:
            continue
        clock, score = clock_time(frame["time"]), score_text(frame["score"])
        # A little later than the frame begins: players show the one before it at its very start.
        seek = f"{frame['time'] + 0.01:.3f}"
        mark = ' class="df-best"' if frame["score"] >= 0.9 * best else ""
        items.append(
            f'<li><button type="button" data-seek="{seek}"{mark} aria-label="Go to {clock}, score {score}">'
            f'<img alt="" src="{_data_url(picture)}">{clock} · {html.escape(score)}</button></li>'
        )
    more = len(frames) - len(items)
    words = "Key frames with time and score; click one to go there"
    words += f" (+{more} more in the timeline)." if more else "."
    return f'<p class="df-small">{words}</p><ol class="df-frames">{"".join(items)}</ol>'


def _timeline_html(reply: Reply, width: float, dark: bool) -> str:
    # Question and answer stand above it already.
    figure = timeline_figure(reply.answer.as_dict(), reply.thumbnails, width=width, heading=False, dark=dark)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=_DPI if width > _NARROW else 2 * _DPI)
    data = base64.b64encode(picture.getvalue()).decode()
    times = ", ".join(clock_time(frame["time"]) for frame in reply.answer.key_frames)
    words = html.escape(f"Timeline of the answer; key frames at {times}")
    return f'<div class="df-timeline"><img alt="{words}" src="data:image/png;base64,{data}"></div>'


def _data_url(picture: np.ndarray) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


__all__ = ["SCRIPT", "STYLES", "error_html", "film_html", "replies_html", "rule_name"]
