"""Benchmarks: what is asked for the rows of each, and what a row that does not fit says."""

import json
import re
import string

import pytest
from benchmark_rows import ROWS, rows_of
from hypothesis import given
from hypothesis import strategies as st

from dynfocus.eval.benchmarks import SUBTITLES_MARK, benchmark_names, get_benchmark
from dynfocus.eval.benchmarks.multiple_choice import index_of, lettered, split_question, without_letters
from dynfocus.eval.rows import load_rows
from dynfocus.eval.synthetic.builder import synthesize
from dynfocus.eval.videos import find_videos

NAMES = benchmark_names()
CHOICES = [name for name in NAMES if get_benchmark(name).metric == "multiple_choice_accuracy"]
_LETTER = "Answer with the option's letter from the given choices directly."
_MME_TASK = (
    "Select the best answer to the following multiple-choice question based on the video and the subtitles. Respond "
    "with only the letter (A, B, C, or D) of the correct option.\n"
)
_MME_QUESTION = "Which planet is shown at last?\nA. Mars.\nB. The ring of Saturn.\nC. Venus.\nD. None of the above.\n"
#: The first question of each: id, first name that the video is looked for under, what the model reads.
FIRST = {
    "activitynet_qa": (
        "v_1QIUV7WYKXg_3",
        "v_1QIUV7WYKXg.mp4",
        "Is the athlete wearing trousers? Answer the question using a single word or phrase.",
    ),
    "egoschema": (
        "0074f737-11cb-497d-8d07-77c3a81273",
        "videos/0074f737-11cb-497d-8d07-77c3a81273.mp4",
        "What is the overarching goal of c?\nA. C cooks.\nB. C eats.\nC. C orders food.\nD. C burns it.\n"
        f"E. C forgets it.\n{_LETTER}",
    ),
    "longvideobench": (
        "86CxyhFV9MI_0",
        "videos/86CxyhFV9MI.mp4",
        "When the narrator says 'here we are', what is on the left?\n"
        f"A. A man in a black hat\nB. A woman\nC. A dog\nD. A sign\n{_LETTER}\n",
    ),
    "lvbench": (
        "Cm73ma6Ibcs-0000",
        "Cm73ma6Ibcs.mp4",
        "What year appears first?\n(A) 1636\n(B) 1366\n(C) 1363\n(D) 1633\nAnswer the question with the option letter",
    ),
    "mlvu_dev": (
        "anomaly_reco-0000",
        "anomaly_reco_0.mp4",
        "What stops in front of the house?\n(A) A red car\n(B) A blue car\n(C) A bicycle\n(D) Nobody\n"
        "Only give the best option.\nBest option: (",
    ),
    "msrvtt_qa": ("00000", "video7010.mp4", "what is a man doing?"),
    "msvd_qa": ("00000", "klteYv1Uv9A_27_33.mp4", "what is chewing on a nut?"),
    "mvbench": (
        "action_sequence-000",
        "star/Charades_segment/action_sequence_0.mp4",
        "Question:What happened before the person sat down?\nOption:\n(A) Closed the door.\n(B) Took the cup.\n"
        "Only give the best option.\n",
    ),
    "nextqa": (
        "4010069381-0",
        "NExTVideo/4010069381.mp4",
        "why does the boy clap his hands\nA. he is cold\nB. to cheer\nC. dance\nD. to call the dog\nE. play",
    ),
    "nextqa_oe": (
        "4010069381-6",
        "NExTVideo/4010069381.mp4",
        "how do the two men play the instrument\nAnswer a question using a short phrase or sentence.",
    ),
    "synthetic": ("000000", "videos/000000.mp4", "What color is the shape with number 7?"),
    "video_chatgpt": ("Generic-v_p1QGn0IzfW0-0", "Test_Videos/v_p1QGn0IzfW0.mp4", "What is happening?"),
    "video_mme": ("001-1", "data/fFjv93ACGo8.mp4", f"{_MME_TASK}{_MME_QUESTION}\n{_LETTER}"),
    "videohallucer": (
        "object_relation-000-basic",
        "object_relation/videos/1052.mp4",
        "Is there a baby in the video?\nAnswer the question using 'yes' or 'no'.",
    ),
}
#: References of all questions; of those with options, the indices.
REFERENCES = {
    "activitynet_qa": ["yes", "blue"],
    "egoschema": [3, 0],
    "longvideobench": [1, 4],
    "lvbench": [3, 0],
    "mlvu_dev": [0, 1] * 7,
    "msrvtt_qa": ["talk", "woman"],
    "msvd_qa": ["squirrel", "yes"],
    "mvbench": [1, 2] * 20,
    "nextqa": [1, 4],
    "nextqa_oe": ["roll the handle"],
    "synthetic": ["red", "red"],
    "video_chatgpt": ["A boat race.", "The start.", "On a lake.", "On a lake."],
    "video_mme": [2, 1, 0],
    "videohallucer": ["yes", "no"] * 10,
}


def questions_of(name, **options):
    benchmark = get_benchmark(name)
    return (benchmark.with_options(**options) if options else benchmark).questions(rows_of(name))


def test_every_benchmark_has_rows_here():
    assert set(FIRST) == set(REFERENCES) == set(ROWS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_rows_become_questions(name):
    benchmark, questions = get_benchmark(name), questions_of(name)
    id, video, prompt = FIRST[name]
    assert (benchmark.name, questions[0].id, questions[0].prompt) == (name, id, prompt)
    assert benchmark.video_candidates(questions[0].video)[0] == video
    assert [question.reference for question in questions] == REFERENCES[name]
    for question in questions:
        assert tuple(question.groups) == benchmark.groups
        assert all(isinstance(value, str) and value for value in question.groups.values())
        assert SUBTITLES_MARK not in question.prompt
        # The frames are chosen by what is asked, not by how to answer.
        assert question.question is None or not re.search("option|letter|Answer", question.question)


@pytest.mark.parametrize("name", CHOICES)
def test_options_have_neither_letters_nor_pads_and_stand_in_the_prompt_in_order(name):
    for question in questions_of(name):
        assert 0 <= question.reference < len(question.options)
        for letter, option in zip(string.ascii_uppercase, question.options, strict=False):
            assert option not in ("", "N/A") and not re.match(r"\(?[A-Z][.):] ", option)
            assert re.search(rf"^\(?{letter}[.)] {re.escape(option)}$", question.prompt, re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_benchmark_says_of_itself(name):
    benchmark = get_benchmark(name)
    # At temperature 0, as in the field.
    assert benchmark.generation["do_sample"] is False and benchmark.generation["max_new_tokens"] > 0
    assert benchmark.title and (benchmark.url.startswith("http") or benchmark.local)
    # A share is quoted in percent, a score of a judge from 0 to 5.
    assert all(5 < value < 100 for value in benchmark.published.values())
    assert bool(benchmark.fallback) == benchmark.dataset.startswith(("lmms-eval/", "bigai-nlco/"))


@pytest.mark.parametrize("name", NAMES)
def test_every_stated_field_is_needed_and_named_when_it_is_gone(name):
    benchmark, rows = get_benchmark(name), rows_of(name)
    for field in benchmark.fields:
        changed = [{key: value for key, value in row.items() if key != field} for row in rows]
        with pytest.raises(ValueError, match=rf"has changed: .* needs the fields {field}, and there are "):
            benchmark.questions(changed)


@pytest.mark.parametrize("name", NAMES)
def test_no_other_field_is_needed(name):
    # But for those of one configuration, or of one of two forms.
    more = {"_config", "question", "question_1", "question_2", "video", "conversations"}
    benchmark = get_benchmark(name)
    kept = more | set(benchmark.fields)
    changed = [{key: value for key, value in row.items() if key in kept} for row in rows_of(name)]
    assert [question.prompt for question in benchmark.questions(changed)] == [
        question.prompt for question in questions_of(name)
    ]


@pytest.mark.parametrize(
    "name, config, field",
    [("video_chatgpt", "Generic", "question"), ("video_chatgpt", "Consistency", "question_2")],
)
def test_a_field_of_one_configuration_is_named(name, config, field):
    rows = rows_of(name)
    for row in rows:
        if row["_config"] == config:
            del row[field]
    with pytest.raises(ValueError, match=rf"has changed: {config} needs the fields {field}"):
        get_benchmark(name).questions(rows)


def test_a_half_without_an_answer_is_named():
    rows = rows_of("videohallucer")
    rows[0] = {**rows[0], "hallucination": {"video": "1.mp4", "question": "Is it?"}}
    with pytest.raises(ValueError, match=r"object_relation-000 lacks the fields hallucination\.answer"):
        get_benchmark("videohallucer").questions(rows)


def test_halves_of_a_pair_share_its_name():
    questions = questions_of("videohallucer")
    for basic, hallucination in zip(questions[::2], questions[1::2], strict=True):
        assert basic.pair == hallucination.pair
        assert (basic.half, hallucination.half) == ("basic", "hallucination")
    # The two may be about different videos.
    assert questions[2].video.endswith("0024_a.mp4") and questions[3].video.endswith("0024_b.mp4")


def test_consistency_pairs_and_the_judges_aspects():
    questions = questions_of("video_chatgpt")
    assert [question.aspects for question in questions] == [
        ("correctness", "detail", "context"),
        ("temporal",),
        ("consistency",),
        ("consistency",),
    ]
    first, second = questions[2:]
    assert (first.prompt, second.prompt) == ("Where is the boat?", "On what does the boat swim?")
    assert first.pair == second.pair and (first.half, second.half) == ("first", "second")


def test_subtitles_of_video_mme():
    plain, shown = questions_of("video_mme"), questions_of("video_mme", subtitles=True)
    assert all(question.subtitles is None for question in plain)
    assert shown[0].subtitles == "subtitle/fFjv93ACGo8.srt"
    assert shown[0].prompt == (
        f"This video's subtitles are listed below: \n{SUBTITLES_MARK}\n{_MME_TASK}{_MME_QUESTION}The best answer is:"
    )
    assert [(one.id, one.reference, one.question) for one in plain] == [
        (one.id, one.reference, one.question) for one in shown
    ]
    with pytest.raises(ValueError, match="MLVU-dev .* has no option 'subtitles'"):
        get_benchmark("mlvu_dev").with_options(subtitles=True)


def test_lvbench_with_options_of_their_own_asks_the_same():
    rows = rows_of("lvbench")
    apart = [
        {**row, "question": "What year appears first?", "options": ["1636", "1366", "1363", "1633"]} for row in rows
    ]
    assert get_benchmark("lvbench").questions(apart) == questions_of("lvbench")


@pytest.mark.parametrize(
    "name, given, video",
    [
        ("msvd_qa", "klteYv1Uv9A_27_33", "klteYv1Uv9A_27_33"),
        ("msvd_qa", 1301, "vid1301"),
        ("msrvtt_qa", 7010, "video7010"),
    ],
)
def test_short_answers_as_their_authors_gave_them(name, given, video):
    row = {"video_id": given, "question": "Who sings?", "answer": "man"}
    (question,) = get_benchmark(name).questions([row])
    assert (question.id, question.video, question.prompt, question.reference) == ("00000", video, "Who sings?", "man")
    assert question.groups == {"question_word": "who"}
    for field in ("video_id", "question", "answer"):
        with pytest.raises(ValueError, match=rf"has changed: its rows need .*{field}"):
            get_benchmark(name).questions([{key: value for key, value in row.items() if key != field}])


@pytest.mark.parametrize(
    "name, change",
    [
        ("video_mme", {"answer": "E"}),
        ("egoschema", {"answer": "5"}),
        ("mvbench", {"answer": "Closed the window."}),
        ("longvideobench", {"correct_choice": -1}),
        ("mlvu_dev", {"answer": "?"}),
    ],
)
def test_an_answer_that_is_no_option_is_no_row_to_score(name, change):
    rows = rows_of(name)
    with pytest.raises(ValueError, match="is none of the options"):
        get_benchmark(name).questions([{**rows[0], **change}])


@pytest.mark.parametrize(
    "name, nearest",
    [("videomme", "video_mme"), ("mlvu", "mlvu_dev"), ("nextqa-mc", "nextqa"), ("ActivityNet", "activitynet_qa")],
)
def test_a_wrong_name_suggests_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=rf"There is no benchmark '{name}': did you mean .*\b{nearest}\b.*\?"):
        get_benchmark(name)


def test_a_name_like_none_lists_all():
    with pytest.raises(ValueError, match=", ".join(NAMES)):
        get_benchmark("imagenet")


def test_spelling_of_names():
    assert get_benchmark("Video-MME") is get_benchmark("video_mme")


def test_a_set_of_synth_is_the_synthetic_benchmark(tmp_path):
    file = synthesize(tmp_path / "set", seed=1, num_videos=2, num_frames=4, num_events=(1, 1), size=32)
    benchmark = get_benchmark("synthetic")
    questions = benchmark.questions(load_rows(benchmark, folder=tmp_path / "set").rows)
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    asked = [(question.prompt, question.reference, question.groups["kind"]) for question in questions]
    assert asked == [(row["question"], row["answer"], row["kind"]) for row in rows] and asked
    assert None not in find_videos(benchmark, questions, tmp_path / "set").values()


_WORDS = st.text(string.ascii_lowercase + " ", min_size=1, max_size=12).map(lambda text: text.strip() or "x")


@given(
    _WORDS,
    st.lists(_WORDS, min_size=2, max_size=10, unique=True),
    st.sampled_from(["({letter}) {option}", "{letter}. {option}"]),
)
def test_options_inside_a_question_come_out_as_they_went_in(question, options, form):
    text = f"{question}\n{lettered(options, form)}"
    assert split_question(text) == (question, tuple(options))
    assert without_letters(lettered(options, form).split("\n")) == tuple(options)
    assert without_letters(options) == tuple(options)
    for index, option in enumerate(options):
        assert index_of(option, options) == index_of(index, options) == index
        assert index_of(string.ascii_uppercase[index], options) == index


def test_odd_questions_with_options_inside():
    # An option of several lines, and a list before the options.
    text = "Which is right?\n(A) one\n(B) two\nOptions:\n(A) first\nand more\n(B) second"
    assert split_question(text) == ("Which is right?\n(A) one\n(B) two Options:", ("first and more", "second"))
    # A letter out of order begins no option.
    assert split_question("Which worm?\n(A) one\nC. elegans\n(B) two") == ("Which worm?", ("one C. elegans", "two"))
    for text in ("What is it?", "What is it?\n(A) one", "What?\n(B) one\n(C) two"):
        with pytest.raises(ValueError, match="has no options"):
            split_question(text)


def test_only_letters_in_order_are_taken_off():
    assert without_letters(["A. Smith", "A. Jones"]) == ("A. Smith", "A. Jones")
    assert without_letters(["A. M. Turing", "B. Russell"]) == ("M. Turing", "Russell")
    # A text is meant before a letter.
    assert index_of("B", ["C", "A", "B"]) == 2
