"""`dynfocus demo`: a page that answers questions about videos."""

import importlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from dynfocus.checkpoints import DEFAULT_MODEL

from .ask import Setup, check_options, open_pipeline
from .terminal import UserError, print_note, quiet

#: Questions about the example videos, which are made on the spot: file, question.
EXAMPLES = (
    ("events", "Which number is shown with the red star?"),
    ("shapes", "Which number is shown with the yellow heart?"),
    ("shapes", "Which way does the green diamond move?"),
)
# For visitors: seconds that their videos and states are kept, how many states, how many requests wait.
_KEPT_SECONDS, _MOST_VISITORS, _MOST_WAITING = 3600, 32, 32
_NO_RULE = "none"
#: Of the theme: small words and the button have a contrast of 4.5 at least.
_COLORS = {
    "body_text_color_subdued": "*neutral_600",
    "button_primary_background_fill": "*primary_600",
    "button_primary_background_fill_hover": "*primary_700",
    "input_placeholder_color": "*neutral_500",
    "input_placeholder_color_dark": "*neutral_400",
}


@dataclass(frozen=True, kw_only=True)
class Request(Setup):
    """
    The command line of `dynfocus demo`.

    Args:
        max_upload: megabytes of a video at most.
    """

    host: str
    port: int
    max_upload: int


def run(request: Request) -> None:
    """Load the model, and serve the page until the process is interrupted."""
    page, options = prepare(request)
    _, address, _ = page.launch(**options, prevent_thread_lock=True)
    Console(highlight=False, soft_wrap=True).print(f"The page is at {address} (Ctrl-C ends it).", markup=False)
    page.block_thread()


def serve(model: str | None = None, **options: Any) -> None:
    """
    The page with the defaults of the command, as the app of a Space calls it.

    Args:
        model: a folder or a Hub id; by default the included demo model.
        options: `dual_encoder`, `rule`, `max_visual_tokens`, `fps`, `max_frames`, `max_new_tokens`, `device`, `dtype`,
            `revision`, `trust_remote_code`, `max_upload`: as those of the command.
    """
    names = ("max_visual_tokens", "fps", "max_frames")
    sampling = {name: options.pop(name, None) for name in names}
    defaults = {"max_new_tokens": 64, "device": None, "dtype": None, "revision": None, "trust_remote_code": False}
    run(
        Request(
            video="",
            model=model,
            sampling={**sampling, "decoder": "auto", "on_truncated": "warn"},
            adoption={name: options.pop(name, None) for name in ("dual_encoder", "coarse")},
            verbose=True,
            host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
            port=int(os.environ.get("GRADIO_SERVER_PORT", 7860)),
            **{"max_upload": 500, **defaults, **options},
        )
    )


def prepare(request: Request) -> tuple[Any, dict[str, Any]]:
    """
    The page, and the arguments of its `launch`.

    Raises:
        `UserError`: without Gradio, or for options that are invalid.
    """
    check_options(request)
    load_gradio()
    # Visitors are other people: what they upload may name addresses, and those of this network are not theirs to read.
    os.environ.pop("DYNFOCUS_ALLOW_PRIVATE_ADDRESSES", None)
    with quiet(request.verbose):
        pipe = open_pipeline(request)
    if request.model is None and "server" not in {name for name, value in request.adoption.items() if value}:
        print_note("The included demo model has only seen generated shapes. For real videos: dynfocus demo --model ID")
    return build_page(pipe, request), launch_options(request)


def load_gradio() -> Any:
    """
    The `gradio` module, which asks no other host for anything. Raises a `UserError` if it, or matplotlib, is not
    installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        importlib.import_module("matplotlib")
        return importlib.import_module("gradio")
    except ImportError as error:
        raise UserError(f"The page needs Gradio and matplotlib: pip install 'dynfocus[demo]' ({error}).") from error


def launch_options(request: Request) -> dict[str, Any]:
    """Arguments of `launch`: limits, styles, and nothing from other hosts."""
    from .demo_html import SCRIPT, STYLES

    gradio = load_gradio()
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return {
        "server_name": request.host,
        "server_port": request.port,
        "max_file_size": f"{request.max_upload}mb",
        "state_session_capacity": _MOST_VISITORS,
        "theme": gradio.themes.Default(primary_hue="blue", **fonts).set(**_COLORS),
        "css": STYLES,
        "head": SCRIPT,
        "footer_links": [],
        "ssr_mode": False,
        "share": False,
        "show_error": True,
        "quiet": True,
    }


def build_page(pipe: Any, setup: Setup) -> Any:
    """The page as `gradio.Blocks`."""
    from .demo_html import error_html, film_html, replies_html, rule_name
    from .studio import Studio

    gr = load_gradio()
    studio = Studio(pipe, setup)
    examples = tempfile.TemporaryDirectory(prefix="dynfocus-examples-")

    def read(path: str | None, progress: Any = gr.Progress()) -> tuple[Any, str, Any, str]:  # noqa: B008
        """The film, a note about it, the slider, and the answers, which are gone."""
        if path is None:
            return None, "", gr.Slider(visible=False), ""

        def report(done: int, total: int) -> None:
            progress((done, total), desc="Reading the video", unit="frames")

        try:
            film = studio.read(path, report)
        except UserError as error:
            return None, error_html(str(error)), gr.Slider(visible=False), ""
        least, usual, most = film.tokens
        given = setup.sampling["max_visual_tokens"]
        value = usual if given is None else min(max(given, least), most)
        slider = gr.Slider(minimum=least, maximum=max(most, least + 1), value=value, visible=True)
        return film, film_html(film), slider, ""

    def ask(film: Any, question: str, tokens: float, rule: str, beside: str, screen: float, dark: bool) -> str:
        """The answers."""
        if film is None:
            return error_html("There is no video yet: upload one, or take an example.")
        rules = dict.fromkeys([rule, *([beside] if beside != _NO_RULE else [])])
        try:
            return replies_html(film, [studio.ask(film, question, int(tokens), one) for one in rules], screen, dark)
        except UserError as error:
            return error_html(str(error))

    with gr.Blocks(title="DynFocus", analytics_enabled=False, delete_cache=(_KEPT_SECONDS, _KEPT_SECONDS)) as page:
        gr.Markdown(f"# DynFocus\n{_introduction(setup)}")
        film = gr.State(time_to_live=_KEPT_SECONDS)
        with gr.Row():
            with gr.Column(min_width=300):
                video = gr.Video(label="Video", sources=["upload"], elem_id="video", buttons=[])
                note = gr.HTML(elem_id="note")
            with gr.Column(min_width=300):
                question = gr.Textbox(label="Question", elem_id="question", max_lines=6)
                budget = {"label": "Token budget", "info": "visual tokens at most"}
                # Its ends are known once a video is read.
                tokens = gr.Slider(1, 2, 1, step=1, visible=False, elem_id="tokens", **budget)
                # A stock model's choice says more beside frames at equal distances.
                with gr.Accordion("Choice of frames", open=not studio.has_scores):
                    names = [(rule_name(rule), rule) for rule in studio.rules]
                    rule = gr.Radio(names, value=studio.rule, label="Frames chosen by")
                    usual = _NO_RULE if studio.has_scores or studio.rule == "uniform" else "uniform"
                    beside = gr.Radio([("nothing", _NO_RULE), *names], value=usual, label="Compared with")
                go = gr.Button("Ask", variant="primary", elem_id="ask")
                gr.Markdown("Or take an example:")
                with gr.Row(elem_id="examples"):
                    buttons = [gr.Button(text, size="sm", min_width=120) for _, text in EXAMPLES]
        answers = gr.HTML(elem_id="answers", min_height=40)
        # Filled in by the browser: pixels of its window, and whether the page is dark.
        screen, dark = gr.Number(1200, visible=False), gr.Checkbox(False, visible=False)

        one_at_a_time = {"concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private"}
        reading = {
            "fn": read, "inputs": video, "outputs": [film, note, tokens, answers], "show_progress_on": note,
            **one_at_a_time,
        }  # fmt: skip
        asking = {
            "fn": ask, "inputs": [film, question, tokens, rule, beside, screen, dark], "outputs": answers,
            "js": "(...given) => [...given.slice(0, -2), innerWidth, document.body.classList.contains('dark')]",
            **one_at_a_time,
        }  # fmt: skip
        gr.on([video.upload, video.clear], **reading)
        gr.on([go.click, question.submit], **asking)
        for button, (name, text) in zip(buttons, EXAMPLES, strict=True):
            button.click(
                lambda name=name, text=text: (example_video(Path(examples.name), name), text),
                None,
                [video, question],
                api_visibility="private",
            ).then(**reading).then(**asking)
    page.examples = examples  # deleted with the page
    return page.queue(max_size=_MOST_WAITING)


def _introduction(setup: Setup) -> str:
    if setup.adoption.get("server") or setup.model is not None:
        name = setup.model or "a model of a server"
        name = Path(name).name if Path(name).is_dir() else name
        return f"Ask **{name}** about a video. For each question it reads a few frames that are chosen for it."
    return (
        f"Ask about a video. The included demo model, {DEFAULT_MODEL}, knows moving shapes with numbers and nothing "
        "else: its answers about real videos mean nothing."
    )


def example_video(folder: Path, name: str) -> str:
    """One of the example videos of the repository, made when it is first needed."""
    import numpy as np

    from dynfocus.eval.synthetic import example_episode
    from dynfocus.eval.synthetic.video_file import write_episode
    from dynfocus.eval.synthetic.world import sample_episode

    path = folder / f"{name}.mp4"
    if not path.is_file():
        is_first = name == "events"
        episode = example_episode() if is_first else sample_episode(np.random.default_rng(7), 128, "test")
        write_episode(path, episode, size=256 if is_first else 128)
    return str(path)


__all__ = [
    "EXAMPLES",
    "Request",
    "build_page",
    "example_video",
    "launch_options",
    "load_gradio",
    "prepare",
    "run",
    "serve",
]
