"""The metrics, as functions and as modules of `evaluate`."""

import ast
import doctest
import importlib
import os
import re
import runpy
import shutil
import sys
from pathlib import Path

import evaluate
import forked
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynfocus.eval import metrics
from dynfocus.eval.metrics.judged_video_qa import judged_video_qa
from dynfocus.eval.metrics.multiple_choice_accuracy import multiple_choice_accuracy
from dynfocus.eval.metrics.paired_hallucination_accuracy import paired_hallucination_accuracy
from dynfocus.eval.metrics.paired_hallucination_accuracy.paired_hallucination_accuracy import parse_yes_no
from dynfocus.eval.metrics.video_qa_accuracy import video_qa_accuracy
from dynfocus.eval.metrics.video_qa_accuracy.video_qa_accuracy import normalize_answer
from dynfocus.eval.synthetic import score as synthetic_score

FOLDER = Path(metrics.__file__).parent
NAMES = ["judged_video_qa", "multiple_choice_accuracy", "paired_hallucination_accuracy", "video_qa_accuracy"]
FUNCTIONS = {
    "judged_video_qa": judged_video_qa.compute,
    "multiple_choice_accuracy": multiple_choice_accuracy.compute,
    "paired_hallucination_accuracy": paired_hallucination_accuracy.compute,
    "video_qa_accuracy": video_qa_accuracy.compute,
}


def cases(name):
    found = importlib.import_module(f"dynfocus.eval.metrics.{name}.tests").test_cases
    return [({key: value for key, value in case.items() if key != "result"}, case["result"]) for case in found]


CASES = [(name, columns, result) for name in NAMES for columns, result in cases(name)]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """`evaluate` keeps copies of modules, and tables: not in the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluate.config.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        patch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path_factory.mktemp("tables")))
        patch.setattr("evaluate.loading.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")), raising=False)
        yield


# As modules of `evaluate`


def test_all_metrics_are_tested():
    assert sorted(path.name for path in FOLDER.iterdir() if path.is_dir() and path.name != "__pycache__") == NAMES


@pytest.mark.parametrize(("name", "columns", "result"), CASES)
def test_function_and_module_give_the_known_result(name, columns, result):
    assert FUNCTIONS[name](**columns) == result
    module = evaluate.load(str(FOLDER / name))
    assert module.compute(**columns) == result


@pytest.mark.parametrize(("name", "columns", "result"), CASES)
def test_rows_may_come_in_batches_and_one_by_one(name, columns, result):
    module = evaluate.load(str(FOLDER / name))
    half = len(columns["predictions"]) // 2
    module.add_batch(**{key: values[:half] for key, values in columns.items()})
    for row in zip(*(values[half:] for values in columns.values()), strict=True):
        # `add` names columns as `compute` does, but for these two.
        one = dict(zip(columns, row, strict=True))
        named = {"prediction": one.pop("predictions")} | (
            {"reference": one.pop("references")} if "references" in one else {}
        )
        module.add(**named, **one)
    assert module.compute() == result


@pytest.mark.parametrize("name", NAMES)
def test_groups_are_given_to_compute(name):
    columns, _ = cases(name)[0]
    # Both halves of a pair are in one group.
    groups = [{"duration": "short" if index < 2 else "long"} for index in range(len(columns["predictions"]))]
    expected = FUNCTIONS[name](**columns, groups=groups)
    assert set(expected["by_group"]["duration"]) <= {"short", "long"}
    module = evaluate.load(str(FOLDER / name))
    assert module.compute(**columns, groups=groups) == expected
    module.add_batch(**columns)
    assert module.compute(groups=groups) == expected


def test_metrics_can_be_combined():
    paired = evaluate.load(str(FOLDER / "paired_hallucination_accuracy"))
    exact = evaluate.load(str(FOLDER / "video_qa_accuracy"))
    columns, _ = cases("paired_hallucination_accuracy")[2]
    both = evaluate.combine([paired, exact])
    both.add_batch(**columns)
    result = both.compute()
    assert result["paired_hallucination_accuracy_accuracy"] == 0.5
    assert result["video_qa_accuracy_accuracy"] == 0.75
    assert result["incomplete_pairs"] == 0


def test_metrics_load_without_network_package_and_gradio(tmp_path):
    """As Spaces do: from a folder of their own, where `dynfocus` is not installed."""
    # Without transformers `evaluate` loads faster, and a Space need not have it.
    script = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('dynfocus', 'gradio', 'transformers'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "import evaluate\n"
        "for name in sys.argv[1:]:\n"
        "    module = evaluate.load(name)\n"
        "    print(module.name, module.info.license, 'predictions' in module.features)\n"
    )
    for name in NAMES:
        shutil.copytree(FOLDER / name, tmp_path / name)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
    (tmp_path / "load.py").write_text(script)
    names = [f"./{name}" for name in NAMES]
    printed = tmp_path / "printed"
    forked.run(tmp_path / "load.py", *names, package=False, environment=environment, folder=tmp_path, stdout=printed)
    assert printed.read_text().splitlines() == [f"{name} Apache-2.0 True" for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_folder_is_complete(name):
    folder = FOLDER / name
    assert {"README.md", "app.py", "requirements.txt", "tests.py", f"{name}.py"} <= {
        one.name for one in folder.iterdir()
    }
    requirements = {re.split(r"\W", line)[0] for line in (folder / "requirements.txt").read_text().split()}
    allowed = {*sys.stdlib_module_names, *requirements}
    for path in (folder / f"{name}.py", *folder.glob("*_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert {one.name.partition(".")[0] for one in node.names} <= allowed
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert (node.module or "").partition(".")[0] in allowed


@pytest.mark.parametrize("name", NAMES)
def test_files_that_files_import_are_imported_by_the_module_itself(name):
    """`evaluate` fetches no others."""
    folder = FOLDER / name

    def siblings(path):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        return {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level}

    direct = siblings(folder / f"{name}.py")
    assert all(siblings(folder / f"{one}.py") <= direct for one in direct)


@pytest.mark.parametrize("name", NAMES)
def test_card_and_page(name, monkeypatch):
    card = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    front = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    assert front
    for line in ("sdk: gradio", "app_file: app.py", "- evaluate", "- metric", "license: apache-2.0"):
        assert line in front[1].splitlines()
    headings = re.findall(r"^#+ (.*)", card, re.MULTILINE)
    wanted = [
        "Metric Description",
        "How to Use",
        "Inputs",
        "Output Values",
        "Examples",
        "Limitations and Bias",
        "Citation",
    ]
    assert [heading for heading in headings if heading in wanted] == wanted
    shown = []
    monkeypatch.setattr("evaluate.utils.launch_gradio_widget", shown.append)
    runpy.run_path(str(FOLDER / name / "app.py"), run_name="__main__")
    assert [module.name for module in shown] == [name]


@pytest.mark.parametrize("name", NAMES)
def test_examples_of_card_and_description_are_true(name):
    module = importlib.import_module(f"dynfocus.eval.metrics.{name}.{name}")
    texts = [
        module._KWARGS_DESCRIPTION,
        *re.findall(r"```python\n(.*?)```", (FOLDER / name / "README.md").read_text(), re.DOTALL),
    ]
    # In the card the metric is loaded by its name, as from the Hub.
    texts = [text.replace(f'load("{name}")', f"load({str(FOLDER / name)!r})") for text in texts]
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed = attempted = 0
    for text in texts:
        test = doctest.DocTestParser().get_doctest(text, {"evaluate": evaluate}, name, None, None)
        outcome = doctest.DocTestRunner(optionflags=flags).run(test)
        failed, attempted = failed + outcome.failed, attempted + outcome.attempted
    assert attempted >= 3 and failed == 0


# What the numbers are

ROWS = st.lists(st.tuples(st.booleans(), st.sampled_from("abc"), st.sampled_from("xy")), min_size=1, max_size=20)


@settings(deadline=None)
@given(ROWS)
def test_micro_and_macro_follow_from_the_groups(rows):
    groups = [{"task": task, "length": length} for _, task, length in rows]
    by_choice = multiple_choice_accuracy.compute(
        ["A" if right else "B" for right, _, _ in rows], [0] * len(rows), [["one", "two"]] * len(rows), groups
    )
    by_text = video_qa_accuracy.compute(["x" if right else "y" for right, _, _ in rows], ["x"] * len(rows), groups)
    by_judge = judged_video_qa.compute([{"correct": right, "score": 3} for right, _, _ in rows], groups)
    for result in (by_choice, by_text):
        assert result["accuracy"] == sum(right for right, _, _ in rows) / len(rows)
        for name, values in result["by_group"].items():
            assert sum(one["total"] for one in values.values()) == result["total"]
            right = sum(one["accuracy"] * one["total"] for one in values.values())
            assert right / result["total"] == pytest.approx(result["accuracy"])
            assert result["macro"][name] == pytest.approx(
                sum(one["accuracy"] for one in values.values()) / len(values)
            )
    assert by_choice["macro"] == by_text["macro"] == by_judge["macro"]


def test_a_question_may_lack_a_group():
    result = video_qa_accuracy.compute(["x", "y"], ["x", "x"], [{"task": "a"}, {}])
    assert result["by_group"] == {"task": {"a": {"accuracy": 1.0, "total": 1}}} and result["accuracy"] == 0.5


def test_no_answer_is_wrong_and_unparsable():
    result = multiple_choice_accuracy.compute([None, "", "A"], [0, 0, 0], [["x", "y"]] * 3)
    assert (result["accuracy"], result["unparsable"]) == (pytest.approx(1 / 3), 2)
    assert video_qa_accuracy.compute([None, "x"], ["x", "x"])["accuracy"] == 0.5
    paired = paired_hallucination_accuracy.compute([None, "no"], ["yes", "no"], ["1", "1"], ["basic", "hallucination"])
    assert (paired["accuracy"], paired["basic"], paired["hallucination"], paired["unparsable"]) == (0, 0, 1, 1)


# Short answers


@pytest.mark.parametrize(
    ("answer", "reference", "equal"),
    [
        ("A red car.", "red car", True),
        ("RED  CAR", "red car", True),
        ("two", "2", True),
        ("the man's hat", "mans hat", True),
        ("man’s hat", "man's hat", True),
        ("t-shirt", "t shirt", True),
        ("ｒｅｄ", "red", True),
        ("1,000", "1000", True),
        ("playing guitar", "guitar playing", False),
        ("reds", "red", False),
        ("1.5", "15", False),
        ("-5", "5", False),
        ("5%", "5", False),
        ("12", "1 2", False),
        ("a", "the", False),
        ("", "red", False),
        ("no", "not", False),
        # Vowels that are marks on a letter.
        ("लाल", "लील", False),
        ("लाल।", "लाल", True),
        ("กิน", "กัน", False),
        ("นี่", "นั้น", False),
        ("İki", "iki", True),
        ("red ❤️", "red", True),
        ("1️⃣", "one", True),
    ],
)
def test_answers_that_count_as_equal(answer, reference, equal):
    assert (normalize_answer(answer) == normalize_answer(reference)) is equal
    assert video_qa_accuracy.compute([answer], [reference])["accuracy"] == equal


@settings(deadline=None)
@given(st.text())
def test_normalizing_twice_changes_nothing(text):
    assert normalize_answer(normalize_answer(text)) == normalize_answer(text)


@settings(max_examples=300, deadline=None)
@given(*[st.text("ab the.,!AN ", max_size=12)] * 2)
def test_agrees_with_the_score_of_synthetic_sets(one, other):
    if synthetic_score.normalize_answer(one) and synthetic_score.normalize_answer(other):
        expected = synthetic_score.normalize_answer(one) == synthetic_score.normalize_answer(other)
        assert (normalize_answer(one) == normalize_answer(other)) is expected


# Verdicts


def test_answers_without_a_verdict_have_no_part_in_the_means():
    verdicts = [{"correct": True, "score": 4}, None, {"status": "refused"}, {"status": "malformed", "score": 1}]
    result = judged_video_qa.compute(verdicts, [{"t": "a"}, {"t": "a"}, {"t": "b"}, {"t": "b"}])
    assert (result["accuracy"], result["score"]) == (1, 4)
    assert [result[kind] for kind in ("judged", "refused", "malformed", "failed", "total")] == [1, 1, 1, 1, 4]
    assert result["by_group"]["t"]["b"] == {"accuracy": None, "score": None, "judged": 0, "total": 2}
    assert result["macro"] == {"t": 1}
    module = evaluate.load(str(FOLDER / "judged_video_qa"))
    module.add(prediction=verdicts[0])
    module.add_batch(predictions=verdicts[1:])
    assert module.compute(groups=[{"t": one} for one in "aabb"]) == result


def test_scores_alone_have_no_accuracy():
    result = judged_video_qa.compute([{"score": 2}, {"score": 4}], [{"t": "a"}, {"t": "b"}])
    assert (result["accuracy"], result["score"], result["macro"]) == (None, 3, {"t": 3})


def test_nothing_judged_is_no_zero():
    result = judged_video_qa.compute([None, {"status": "refused"}])
    assert result["accuracy"] is None and result["score"] is None


# Pairs


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("yes", "yes"),
        ("No.", "no"),
        ("Yes, there is.", "yes"),
        ("**No**, there is no dog", "no"),
        ("'yes'", "yes"),
        ("<answer>no</answer>", "no"),
        ("The answer is yes.", "yes"),
        ("Answer: No", "no"),
        ("The answer to the question is no", "no"),
        ("<think>yes?</think>no", "no"),
        ("<think>The answer is yes", None),
        ("Ｙｅｓ", "yes"),
        ("The car is red.\n\n**Yes**", "yes"),
        ("It looks red.\nNo.", "no"),
        ("Sí, el coche es rojo", "yes"),
        ("Oui.", "yes"),
        ("Nein, das Auto ist rot", "no"),
        ("Não", "no"),
        ("Да, это так", "yes"),
        ("Нет.", "no"),
        ("是的，车是红色的", "yes"),
        ("不是。", "no"),
        ("はい、そうです。", "yes"),
        ("아니요", "no"),
        ("Yes.\n\nNo.", None),
        ("Oui ou non", None),
        ("是否", None),
        ("Is it so?\nyes or no", None),
        ("Yes or no? No.", None),
        ("yes or no", None),
        ("Yes/No", None),
        ("Yes and no", None),
        ("No, the answer is yes", None),
        ("No idea", None),
        ("no one is there", None),
        ("There is no dog", None),
        ("nothing", None),
        ("yesterday", None),
        ("I cannot tell", None),
        ("", None),
        (None, None),
    ],
)
def test_yes_and_no(answer, expected):
    assert parse_yes_no(answer) == expected


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from("xy")), min_size=1, max_size=12),
    st.integers(0, 99),
)
def test_a_pair_counts_only_if_both_halves_are_right(rows, seed):
    said, references, pairs, halves, groups = [], [], [], [], []
    for number, (basic, hallucination, subset) in enumerate(rows):
        said += ["yes" if basic else "no", "no" if hallucination else "yes"]
        references += ["yes", "no"]
        pairs += [str(number)] * 2
        halves += ["basic", "hallucination"]
        groups += [{"subset": subset}] * 2
    columns = [said, references, pairs, halves, groups]
    result = paired_hallucination_accuracy.compute(*columns)
    both = sum(basic and hallucination for basic, hallucination, _ in rows) / len(rows)
    assert result["accuracy"] == both <= min(result["basic"], result["hallucination"])
    assert sum(one["total"] for one in result["by_group"]["subset"].values()) == result["total"] == len(rows)
    # The halves need not stand side by side.
    turned = paired_hallucination_accuracy.compute(*[column[::-1] for column in columns])
    assert turned["accuracy"] == result["accuracy"] and turned["basic"] == result["basic"]
    # A pair that lost a half is left out, and counted.
    cut = paired_hallucination_accuracy.compute(*[column[:-1] for column in columns])
    assert (cut["incomplete_pairs"], cut["total"]) == (1, len(rows) - 1)


# Mistakes

PAIR = {"references": ["yes", "no"], "pairs": ["1", "1"], "halves": ["basic", "hallucination"]}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: multiple_choice_accuracy.compute([], [], []), "no predictions"),
        (lambda: multiple_choice_accuracy.compute(["A"], [0, 1], [["x", "y"]]), "predictions has 1, references has 2"),
        (lambda: multiple_choice_accuracy.compute(["A"], [0], [["x", "y"]], []), "groups has 0"),
        (lambda: multiple_choice_accuracy.compute(["A"], [2], [["x", "y"]]), r"references\[0\] is 2"),
        (lambda: multiple_choice_accuracy.compute(["A"], [-1], [["x", "y"]]), r"references\[0\] is -1"),
        (lambda: multiple_choice_accuracy.compute(["A"], [0], [["x"]]), "There are 1 options"),
        (lambda: video_qa_accuracy.compute([], []), "no predictions"),
        (lambda: video_qa_accuracy.compute(["x"], []), "predictions has 1, references has 0"),
        (lambda: video_qa_accuracy.compute(["x"], ["?"]), r"references\[0\] is '\?'"),
        (lambda: judged_video_qa.compute([]), "no predictions"),
        (lambda: judged_video_qa.compute([{"score": 1}], []), "1 predictions but 0 groups"),
        (lambda: judged_video_qa.compute([{"score": 6}]), r"predictions\[0\] has the score 6"),
        (lambda: judged_video_qa.compute([{"correct": True}]), "has the score None"),
        (lambda: judged_video_qa.compute([{"status": "fine", "score": 1}]), "the status 'fine'"),
        (lambda: judged_video_qa.compute([{"score": 1}, {"score": 1, "correct": True}]), "one judge's prompt for all"),
        (lambda: paired_hallucination_accuracy.compute([], [], [], []), "no predictions"),
        (lambda: paired_hallucination_accuracy.compute(["yes"], **PAIR), "predictions has 1, references has 2"),
        (
            lambda: paired_hallucination_accuracy.compute(["yes"] * 2, **PAIR | {"references": ["Yes", "no"]}),
            "is 'Yes'",
        ),
        (lambda: paired_hallucination_accuracy.compute(["yes"] * 2, **PAIR | {"halves": ["basic", "x"]}), "is 'x'"),
        (
            lambda: paired_hallucination_accuracy.compute(["yes"] * 2, **PAIR | {"halves": ["basic"] * 2}),
            "has two questions",
        ),
        (
            lambda: paired_hallucination_accuracy.compute(["yes"] * 2, **PAIR, groups=[{"s": "a"}, {"s": "b"}]),
            "give both the same",
        ),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
