"""The plug-in for lmms-eval: its answers are the pipeline's, and its scores those of our metrics."""

import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from tiny_models import save_question_aware
from videos import barcode_frames, write_video

from dynfocus.eval.lmms_plugin import DynFocusLmms, generation_arguments
from dynfocus.processing import VideoQAPipeline

ROOT = Path(__file__).parents[2]
ENTRY_POINT = "dynfocus.eval.lmms_plugin:manifest"
needs_lmms_eval = pytest.mark.skipif(importlib.util.find_spec("lmms_eval") is None, reason="needs lmms-eval")
without_lmms_eval = pytest.mark.skipif(importlib.util.find_spec("lmms_eval") is not None, reason="lmms-eval is there")

QUESTIONS = ["which shape comes first?", "what colour is it?", "which number is shown?"]
NEW_TOKENS = 6

TASK = """
task: dyn_{name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: generate_until
doc_to_visual: !function shown.videos
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{max_new_tokens: {new_tokens}, temperature: 0, until: []}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true, ignore_punctuation: true}}
"""

# What lmms-eval's command does, on the tasks of one folder alone.
EVALUATE = """
import json, os, sys
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager

tasks, model_args, batch_size, target = json.loads(sys.argv[1])
manager = TaskManager("ERROR", include_path=tasks, include_defaults=False, model_name="dynfocus")
found = simple_evaluate(
    model="dynfocus", model_args=model_args, tasks=manager.all_subtasks, task_manager=manager, batch_size=batch_size,
    device="cpu", bootstrap_iters=0,
)
if int(os.environ.get("RANK", 0)) == 0:
    samples = found["samples"]
    samples = {task: {one["doc_id"]: one["filtered_resps"][0] for one in samples[task]} for task in samples}
    scores = {task: score["exact_match,none"] for task, score in found["results"].items()}
    with open(target, "w") as file:
        json.dump({"samples": samples, "scores": scores}, file)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    # Of a seed with answers of several letters.
    return save_question_aware(tmp_path_factory.mktemp("model"), seed=7)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("videos")
    return [str(write_video(folder / f"{i}.mp4", barcode_frames(20 + 20 * i, start=60 * i))) for i in range(3)]


def load(model: Path) -> VideoQAPipeline:
    from transformers import pipeline

    return pipeline("video-qa", model=str(model), pipeline_class=VideoQAPipeline, device="cpu")


@pytest.fixture(scope="module")
def rows(model, videos) -> list[dict]:
    """Questions, our pipeline's answers to them, and right answers, which those are now and then."""
    pipe = load(model)
    # The questions about one video do not follow one another.
    asked = [(video, question) for question in QUESTIONS for video in videos]
    given = [pipe(video, question=question, max_new_tokens=NEW_TOKENS)["answer"] for video, question in asked]
    assert len(set(given)) > 1
    return [
        {
            "video": video,
            "question": question,
            "prediction": answer,
            "answer": answer.upper() + "." if number % 3 else "zebra",
        }
        for number, ((video, question), answer) in enumerate(zip(asked, given, strict=True))
    ]


@pytest.fixture(scope="module")
def plugin_path(tmp_path_factory) -> Path:
    """An installed package of which nothing but the entry point is there, for installations older than it."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "dynfocus_entry-0.dist-info").mkdir()
    (folder / "dynfocus_entry-0.dist-info" / "METADATA").write_text("Name: dynfocus-entry\nVersion: 0\n")
    (folder / "dynfocus_entry-0.dist-info" / "entry_points.txt").write_text(
        f"[lmms_eval.models]\ndynfocus = {ENTRY_POINT}\n"
    )
    return folder


def evaluate(folder: Path, plugin_path: Path, model_args: str, batch_size: int = 1, processes: int = 1) -> dict:
    target = folder / "found.json"
    script = folder / "ask_all.py"
    script.write_text(EVALUATE)
    arguments = json.dumps([str(folder / "tasks"), model_args, batch_size, str(target)])
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), str(script), arguments]
    variables = {"PYTHONPATH": str(plugin_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    variables |= {"HF_HOME": str(folder / "hf"), "LMMS_EVAL_HOME": str(folder / "lmms")}
    run = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads(target.read_text())


def write_task(folder: Path, name: str, rows: list[dict]) -> None:
    tasks = folder / "tasks"
    tasks.mkdir(exist_ok=True)
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tasks / "shown.py").write_text("def videos(doc):\n    return [doc['video']]\n")
    (tasks / f"{name}.yaml").write_text(TASK.format(name=name, data=data, new_tokens=NEW_TOKENS))


@needs_lmms_eval
@pytest.mark.parametrize(("batch_size", "processes"), [(1, 1), (2, 1), (1, 2)])
def test_lmms_eval_gets_the_pipelines_answers_and_our_metrics_scores(
    tmp_path, model, rows, plugin_path, batch_size, processes
):
    from dynfocus.eval.metrics.multiple_choice_accuracy import multiple_choice_accuracy
    from dynfocus.eval.metrics.video_qa_accuracy import video_qa_accuracy

    write_task(tmp_path, "open", rows)
    # A letter again and again is no choice to our parser, which such a text could be.
    choices = [row for row in rows if len(set(row["prediction"])) > 1]
    choices = [{**row, "answer": row["prediction"] if number % 2 else "zebra"} for number, row in enumerate(choices)]
    write_task(tmp_path, "choices", choices)
    found = evaluate(tmp_path, plugin_path, f"pretrained={model}", batch_size, processes)
    for task, asked in (("dyn_open", rows), ("dyn_choices", choices)):
        answers = [found["samples"][task][str(number)] for number in range(len(asked))]
        assert answers == [row["prediction"] for row in asked]
    open_score = video_qa_accuracy.compute(
        predictions=[row["prediction"] for row in rows], references=[row["answer"] for row in rows]
    )
    choice_score = multiple_choice_accuracy.compute(
        predictions=answers,
        references=[int(row["answer"] == "zebra") for row in choices],
        options=[[row["prediction"], "zebra"] for row in choices],
    )
    assert found["scores"]["dyn_open"] == pytest.approx(open_score["accuracy"])
    assert found["scores"]["dyn_choices"] == pytest.approx(choice_score["accuracy"])
    assert 0 < open_score["accuracy"] < 1 and 0 < choice_score["accuracy"] < 1


@needs_lmms_eval
def test_arguments_of_the_model_reach_it(tmp_path, model, rows, plugin_path):
    write_task(tmp_path, "open", rows[:1])
    found = evaluate(tmp_path, plugin_path, f"pretrained={model},num_frames=2,max_visual_tokens=50,dtype=float64")
    pipe = load(model)
    pipe.model.double()
    settings = {"num_frames": 2, "max_visual_tokens": 50, "max_new_tokens": NEW_TOKENS}
    expected = pipe(rows[0]["video"], question=rows[0]["question"], **settings)
    assert found["samples"]["dyn_open"]["0"] == expected["answer"]


# --- Without its evaluator ---


def request(number: int, context: str, generation: dict, **metadata) -> SimpleNamespace:
    """As much of lmms-eval's `Instance` as a model reads."""
    arguments = (context, generation, lambda document: document["shown"], number, "task", "test")
    return SimpleNamespace(args=arguments, metadata=metadata)


@pytest.fixture
def make_lmms(model, monkeypatch):
    def make(documents: list[dict], **arguments) -> DynFocusLmms:
        lmms = DynFocusLmms(pretrained=str(model), device="cpu", **arguments)
        lmms.task_dict = {"task": {"test": documents}}
        return lmms

    return make


@needs_lmms_eval
def test_answers_keep_their_places_whatever_is_shown(make_lmms, model, videos, rows):
    frames = list(map(Image.fromarray, barcode_frames(4)))
    documents = [{"shown": one} for one in ([videos[0]], videos[:2], None, frames, [{"url": videos[1]}], [videos[0]])]
    pipe = load(model)
    short, long = {"max_new_tokens": 2}, {"max_new_tokens": NEW_TOKENS, "temperature": 0}
    content = [{"type": "text", "text": "which shape?"}]
    expected = [
        pipe(videos[0], question="which shape?", **short),
        pipe({"video": videos[:2], "question": "which shape?"}, max_new_tokens=NEW_TOKENS),
        pipe([{"role": "user", "content": content}], **short),
        pipe({"video": frames, "question": "which shape?"}, max_new_tokens=NEW_TOKENS),
        pipe(videos[1], question="which shape?", **short),
        pipe(videos[0], question="which shape?", max_new_tokens=NEW_TOKENS),
    ]
    lmms = make_lmms(documents, batch_size=2)
    requests = [request(number, "which shape?", long if number % 2 else short) for number in range(6)]
    assert lmms.generate_until(requests) == [answer["answer"] for answer in expected]


@needs_lmms_eval
def test_a_video_is_encoded_once_and_paddings_not_at_all(make_lmms, model, videos, monkeypatch):
    short = {"max_new_tokens": 2}
    pipe = load(model)
    expected = [pipe(videos[n % 2], question=QUESTIONS[n // 2], **short)["answer"] for n in range(6)]
    lmms = make_lmms([{"shown": [video]} for video in videos[:2]] * 3)
    encoded = []
    video_qa = lmms.pipe.video_qa
    encode = video_qa.encode_stream
    monkeypatch.setattr(
        video_qa, "encode_stream", lambda *args, **kwargs: encoded.append(1) or encode(*args, **kwargs)
    )
    requests = [request(number, QUESTIONS[number // 2], short) for number in range(6)]
    padding = request(0, QUESTIONS[0], short, __padding_only__=True)
    assert lmms.generate_until([*requests, padding]) == [*expected, ""]
    assert len(encoded) == 2


@needs_lmms_eval
def test_an_answer_ends_where_the_task_says(make_lmms, videos):
    lmms = make_lmms([{"shown": [videos[0]]}])
    whole = lmms.generate_until([request(0, "what?", {"max_new_tokens": 8})])[0]
    stop = whole[2:4]
    cut = lmms.generate_until([request(0, "what?", {"max_new_tokens": 8, "until": ["", stop]})])[0]
    assert cut == whole.split(stop)[0] != whole


@needs_lmms_eval
def test_a_broken_video_is_named_or_left_empty_with_a_warning(make_lmms, videos, tmp_path, caplog):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    documents = [{"shown": [str(tmp_path / "broken.mp4")]}, {"shown": [videos[0], "gone.mp4"]}, {"shown": [videos[0]]}]
    requests = [request(number, "what?", {"max_new_tokens": 2}) for number in range(3)]
    with pytest.raises(ValueError, match=r"Document 0 of task: .*broken\.mp4.*on_error=skip"):
        make_lmms(documents).generate_until(requests[:1])
    with pytest.raises(ValueError, match=r"Document 1 of task: .*gone\.mp4"):
        make_lmms(documents).generate_until(requests[1:2])
    answers = make_lmms(documents, on_error="skip").generate_until(requests)
    assert answers[:2] == ["", ""] and answers[2]
    assert caplog.text.count("The answer is left empty.") == 2


@needs_lmms_eval
@pytest.mark.parametrize("shown", [{"url": "a.mp4", "video_start": 3}, 7, ["a.mp4"]])
def test_what_is_no_video_is_named(make_lmms, shown):
    with pytest.raises(ValueError, match="The task task shows .* reads whole videos and images"):
        make_lmms([{"shown": [shown]}]).generate_until([request(0, "what?", {})])


@needs_lmms_eval
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"colour": 1}, TypeError, "model dynfocus: colour"),
        ({"batch_size": "auto"}, ValueError, "'auto', but must be 1 or more"),
        ({"batch_size": 0}, ValueError, "0, but must be 1 or more"),
        ({"on_error": "cry"}, ValueError, "must be 'raise' or 'skip', got 'cry'"),
    ],
)
def test_wrong_arguments_are_named(make_lmms, arguments, error, message):
    with pytest.raises(error, match=message):
        make_lmms([], **arguments)


@needs_lmms_eval
def test_processes_that_do_not_see_each_other_are_no_run(make_lmms, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="3 processes were started, but accelerate sees 1: .*ACCELERATE_USE_CPU=true"):
        make_lmms([])


@needs_lmms_eval
def test_other_kinds_of_requests_are_refused_in_words(make_lmms):
    lmms = make_lmms([])
    with pytest.raises(NotImplementedError, match="generates answers"):
        lmms.loglikelihood([])
    with pytest.raises(NotImplementedError, match="one question at a time"):
        lmms.generate_until_multi_round([])
    lmms.clean()
    assert not hasattr(lmms, "pipe")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"max_new_tokens": 1024, "do_sample": False, "until": []}),
        ({"until": "\n\n", "do_sample": False}, {"max_new_tokens": 1024, "do_sample": False, "until": ["\n\n"]}),
        (
            {"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False},
            {"max_new_tokens": 16, "num_beams": 1, "do_sample": False, "until": []},
        ),
        (
            {"max_gen_toks": 5, "temperature": 0.0, "do_sample": True},
            {"max_new_tokens": 5, "do_sample": False, "until": []},
        ),
        (
            {"max_new_tokens": 9, "temperature": 0.7, "image_aspect_ratio": "pad", "top_p": None},
            {"max_new_tokens": 9, "temperature": 0.7, "do_sample": True, "until": []},
        ),
    ],
)
def test_generation_arguments_of_tasks_become_those_of_generate(given, expected):
    assert generation_arguments(given) == expected


@without_lmms_eval
def test_without_lmms_eval_it_says_what_to_install():
    with pytest.raises(ImportError, match="pip install lmms-eval"):
        DynFocusLmms()


def test_the_entry_point_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["lmms_eval.models"] == {"dynfocus": ENTRY_POINT}
