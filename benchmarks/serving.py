"""
A further question to `dynfocus serve`: what does it cost beside the first, and are eight clients answered as one?

    python benchmarks/serving.py                                 # a 10-minute 720p file, the demo model
    python benchmarks/serving.py --minutes 60

Client and server share this process; the video is sent as the address of a file. Each round begins without kept
states, and asks two questions. Then eight clients ask at once.
"""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import openai
import typer
import uvicorn
from made_videos import FOLDER, make_video
from measuring import Report, Spread, clock
from transformers import pipeline

from dynfocus import VideoQAPipeline
from dynfocus.checkpoints import embedded_model
from dynfocus.cli.chat_completions import Limits, make_app
from dynfocus.cli.served_answers import Answerer, KeptStates

QUESTIONS = ("What is shown at the beginning?", "Which number is shown last?")
#: For the prompt to fit into the demo model.
VISUAL_TOKENS = 2048
CLIENTS = 8
GOAL = 0.1


def ask(client: openai.OpenAI, path: Path, question: str) -> Any:
    content = [
        {"type": "video_url", "video_url": {"url": path.as_uri()}},
        {"type": "text", "text": question},
    ]
    chat: Any = [{"role": "user", "content": content}]
    settings = {"max_visual_tokens": VISUAL_TOKENS}
    return client.chat.completions.create(model="demo", messages=chat, max_tokens=8, extra_body=settings)


def run(minutes: float, rounds: int = 3, folder: Path = FOLDER, json_file: Path | None = None) -> Report:
    """Measures; prints and writes."""
    report = Report("serving", {"minutes": minutes, "rounds": rounds})
    options: Any = {"model": str(embedded_model()), "pipeline_class": VideoQAPipeline}
    answerer = Answerer(pipeline("video-qa", **options), KeptStates(16, 1 << 33))
    app = make_app(answerer, "demo", Limits(folders=(folder.resolve(),), timeout=7200))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        client = openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=7200)
        ask(client, make_video(folder, 10)[0], QUESTIONS[0])  # libraries are loaded
        times: list[list[float]] = []
        path = make_video(folder, round(60 * minutes))[0].resolve()
        for _ in range(rounds):
            answerer.kept = KeptStates(16, 1 << 33)
            times.append([])
            for question in QUESTIONS:
                start = clock()
                ask(client, path, question)
                times[-1].append(clock() - start)
        asked = [f"{QUESTIONS[0]} {number}" for number in range(CLIENTS)]
        alone = [ask(client, path, question).choices[0].message for question in asked]
        with ThreadPoolExecutor(CLIENTS) as pool:
            together = [one.choices[0].message for one in pool.map(lambda text: ask(client, path, text), asked)]
    finally:
        server.should_exit = True
        thread.join()
    first, further = (Spread(tuple(one[place] for one in times)) for place in (0, 1))
    ratio = further / first
    rows = [
        ["first question", f"{first.median:.2f}"],
        ["a further one", f"{further.median:.3f}"],
        ["ratio", str(ratio)],
    ]
    report.add_table(f"Seconds for a question about {minutes:g} minutes of 720p video", ["", "seconds"], rows)
    report.add_goal(
        f"a further question costs {ratio.median:.3f} of the first (goal: at most {GOAL:g})", ratio.median <= GOAL
    )
    equal = sum(one == other for one, other in zip(alone, together, strict=True))
    report.add_goal(f"{equal} of {CLIENTS} clients at once get the answer of one alone", equal == CLIENTS)
    report.results = {"first": first.rounds, "further": further.rounds, "equal": equal}
    report.finish(json_file)
    return report


def main(
    minutes: Annotated[float, typer.Option(help="Length of the video.")] = 10,
    rounds: Annotated[int, typer.Option(min=1, help="The median counts.")] = 3,
    folder: Annotated[Path, typer.Option(help="Where the videos are kept.")] = FOLDER,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results there too.")] = None,
) -> None:
    """Ask a server about long videos."""
    run(minutes, rounds, folder, json_file)


if __name__ == "__main__":
    typer.run(main)
