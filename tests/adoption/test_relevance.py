"""Texts of questions as benchmarks and users write them, and the relevance of frames to them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_dual_encoders import save_dual_encoder

from dynfocus.adoption.relevance import relevance, relevance_of, similarity, texts_of
from dynfocus.eval.benchmarks import egoschema, longvideobench, lvbench, mlvu_dev, mvbench, nextqa, video_mme
from dynfocus.selecting.rules import RULES
from dynfocus.towers.dual_encoder import DualEncoder

PAINTING = "What is the man in the blue shirt painting on the wall at the end?"
COLORS = ["A red car.", "A blue boat.", "A green train.", "A yellow plane."]
LETTERED = [f"{letter}. {option}" for letter, option in zip("ABCD", COLORS, strict=True)]


def prompt_of(benchmark, **row):
    """The prompt that a benchmark makes of one row."""
    return next(iter(benchmark.BENCHMARK.read([row]))).prompt


def video_mme_prompt(**options):
    row = {"question_id": "1", "videoID": "v", "question": PAINTING, "options": LETTERED, "answer": "B"}
    row |= {"duration": "short", "domain": "d", "task_type": "t"}
    return next(iter(video_mme.BENCHMARK.with_options(**options).read([row], **options))).prompt


PROMPTS = {
    "Video-MME": video_mme_prompt(),
    "MLVU": prompt_of(
        mlvu_dev,
        question="\n".join([PAINTING, *(f"({one[0]}) {one[3:]}" for one in LETTERED)]),
        answer=COLORS[1],
        video_name="v",
        task_type="plotQA",
    ),
    "MVBench": prompt_of(
        mvbench, _config="action_count", question=PAINTING, candidates=COLORS, answer=COLORS[1], video="v"
    ),
    "LVBench": prompt_of(
        lvbench,
        question="\n".join([PAINTING, *(f"({one[0]}) {one[3:]}" for one in LETTERED)]),
        answer="B",
        video_path="v",
    ),
    "EgoSchema": prompt_of(egoschema, question=PAINTING, option=LETTERED, answer="1", video_idx="v"),
    "NExT-QA": prompt_of(
        nextqa,
        video=1,
        question=PAINTING,
        qid=1,
        type="CW",
        answer=1,
        **{f"a{place}": option for place, option in enumerate([*COLORS, "a bus"])},
    ),
    "LongVideoBench": prompt_of(
        longvideobench,
        id="1",
        video_path="v",
        question=PAINTING,
        correct_choice=1,
        duration_group=60,
        question_category="c",
        **{f"option{place}": option for place, option in enumerate([*COLORS, "N/A"])},
    ),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_of_benchmarks_keep_their_question_alone(name):
    assert "blue boat" in PROMPTS[name]  # so that there is something to leave out
    assert texts_of(PROMPTS[name]) == [
        PAINTING,
        "the man in the blue shirt is painting something on the wall at the end",
    ]


@pytest.mark.parametrize("name", PROMPTS)
def test_options_give_texts_of_their_own_if_asked_for(name):
    texts = texts_of(PROMPTS[name], use_options=True)
    more = ["a bus"] if name == "NExT-QA" else []
    assert texts[2:] == [f"{PAINTING} {option}" for option in [*COLORS, *more]]


@pytest.mark.parametrize("form", ["{}", "{}\nOptions:\n", "Question: {}\n"])
def test_options_without_letters_are_known_if_they_are_given(form):
    question = form.format(PAINTING) + "\n" + "\n".join(COLORS)
    assert texts_of(question, COLORS)[0] == texts_of(question, LETTERED)[0] == PAINTING
    assert texts_of(question, LETTERED, use_options=True)[2:] == [f"{PAINTING} {option}" for option in COLORS]


@pytest.mark.parametrize(
    "instruction",
    [
        "Answer the question using a single word or phrase.",
        "Answer the question using 'yes' or 'no'.",
        "Answer with the option's letter from the given choices directly.",
        "Answer the question with the option letter",
        "Respond with only the letter (A, B, C, or D) of the correct option.",
        "Please answer with yes or no.",
        "Please respond with only the letter of the correct answer.",
        "Please provide your answer by stating the letter followed by the full option.",
        "Answer briefly.",
        "Answer in one sentence.",
        "Answer in English.",
        "Only give the best option.",
        "Only give the best option.\nBest option: (",
        "The best answer is:",
        "The answer is:",
        "Answer:",
        "Choose the most appropriate option.",
        "Select the best answer to the following multiple-choice question based on the video.",
        "Please directly give the best option.",
        "Give only the letter.",
        "Just output the answer.",
        "Think step by step.",
        "Let's think step by step.",
        "Be concise.",
        "Do not explain.",
        "Explain your reasoning.",
        "Your answer should be a single letter.",
        "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
        "objects, and the action and pose of persons. Based on your observations, select the best option that "
        "accurately addresses the question.",
    ],
)
@pytest.mark.parametrize("place", ["{0} {1}", "{0}\n{1}", "{1}\n{0}"])
def test_instructions_are_left_out(instruction, place):
    if instruction.endswith((":", "(", "letter")) and place == "{0} {1}":
        place = "{0}\n{1}"
    if not instruction.endswith(".") and place == "{1}\n{0}":
        place = "{0}\n{1}"
    assert texts_of(place.format("Who opens the door?", instruction)) == [
        "Who opens the door?",
        "someone opens the door",
    ]


@pytest.mark.parametrize(
    "question",
    [
        "What does the woman answer when he asks for the letter?",
        "Which option does the man choose on the screen?",
        "Pick the red car and describe its driver.",
        "Describe the video in detail.",
        "Give the time at which the man opens the door.",
        "Select the scene where the goal is scored.",
        "In which minute does she respond to the letter?",
        "Find the moment when a hand draws a curve.",
        "Only the man on the left is wearing a hat. What is he holding?",
        "The answer the teacher gives is wrong. Why does she laugh?",
        "a hand draws a curve",
        "What is 3.5 m above the ground?",
        "What did Vitamin A. Smith say?",
        "Is plan A better than plan B?",
        "When does the man (A) appear?",
    ],
)
def test_questions_keep_all_their_words(question):
    assert texts_of(question)[0] == question


@pytest.mark.parametrize(
    "question, statement",
    [
        ("What is the man holding?", "the man is holding something"),
        ("What is the man holding up in the kitchen?", "the man is holding something up in the kitchen"),
        ("what are they doing", "they are doing something"),
        ("What is happening after the man opens the door?", "the man opens the door"),
        ("What happened right before the crash?", "the crash"),
        ("What is on the table?", "something is on the table"),
        ("What is the name of the building?", "the name of the building"),
        ("What color is the flag?", "the flag"),
        ("What color shirt is the man wearing?", "the man is wearing shirt"),
        ("Which instrument is the woman with the hat playing?", "the woman with the hat is playing instrument"),
        ("What did the boy put on the table?", "the boy put on the table"),
        ("Who is riding the horse?", "someone is riding the horse"),
        ("Who is the man talking to?", "the man is talking someone to"),
        ("Who opens the door?", "someone opens the door"),
        ("Why is the boy crying?", "the boy is crying"),
        ("Where is the cat?", "the cat"),
        ("When does she draw the second graph?", "she draw the second graph"),
        ("How many people are there in the room?", "people in the room"),
        ("How many dogs are running?", "dogs are running"),
        ("How many times does the man jump?", "the man jump"),
        ("Is there a person?", "there is a person"),
        ("Are there any dogs in the park?", "there are any dogs in the park"),
        ("Is the man holding a cup?", "the man is holding a cup"),
        ("Does the dog catch the ball?", "the dog catch the ball"),
        ("In the video, what is the man holding?", "the man is holding something"),
        ("What's the man holding?", "the man is holding something"),
        ("What’s on the table?", "something is on the table"),
        (
            "why did the boy pick up one present and move to the sofa",
            "the boy pick up one present and move to the sofa",
        ),
        ("A man enters. What is he holding?", "he is holding something"),
    ],
)
def test_simple_questions_are_stated(question, statement):
    texts = texts_of(question)
    assert [text.lower() for text in texts[1:]] == [statement]


@pytest.mark.parametrize(
    "question",
    [
        "Is the man tall?",
        "Describe the video.",
        "Which of these is true?",
        "Who else?",
        "What?",
        "When she opens the box, what can be seen?",
        "¿Qué sostiene el hombre?",
        "那个人手里拿着什么？",
        "Was hält der Mann?",
        "Что держит мужчина?",
        "Was hält " + "der Mann " * 40 + "?",
    ],
)
def test_what_no_rule_fits_stays_as_it_is(question):
    assert texts_of(question) == [" ".join(question.split())]


def test_lettered_options_are_left_out_in_any_language_and_inside_a_line():
    assert texts_of("那个人手里拿着什么？\nA. 红色的杯子\nB. 蓝色的书") == ["那个人手里拿着什么？"]
    assert texts_of("What color is it? (A) red (B) blue (C) green")[0] == "What color is it?"
    assert texts_of("What color is it? A. red B. blue", use_options=True)[2:] == [
        "What color is it? red",
        "What color is it? blue",
    ]


def test_nothing_is_made_of_nothing_and_instructions_alone_stay():
    assert texts_of("") == texts_of("  \n ") == []
    assert texts_of("Answer with yes or no.") == ["Answer with yes or no."]
    assert texts_of("A. red\nB. blue") == ["A. red B. blue"]


@given(st.text(alphabet="aA.?:() \nB是what is answer the", max_size=60), st.booleans())
def test_texts_are_different_and_not_empty_whatever_is_asked(question, use_options):
    texts = texts_of(question, use_options=use_options)
    assert len(set(texts)) == len(texts) and all(text.strip() == text and text for text in texts)
    assert bool(texts) == bool(question.strip())


# Relevance


def unit(*shape, seed=0):
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_relevance_is_the_best_cosine_scaled_over_the_video():
    images, texts = unit(50, 8), unit(3, 8, seed=1)
    cosines = np.array([max(float(image @ text) for text in texts) for image in images])
    np.testing.assert_allclose(similarity(images, texts), cosines, atol=1e-6)
    expected = (cosines - cosines.min()) / (cosines.max() - cosines.min())
    found = relevance(images, texts)
    assert found.dtype == torch.float32 and found.min() == 0 and found.max() == 1
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # Lengths do not matter, and half precision hardly.
    torch.testing.assert_close(relevance(3 * images, 0.1 * texts), found, atol=1e-5, rtol=0)
    torch.testing.assert_close(relevance(images.half(), texts), found, atol=5e-3, rtol=0)


def test_relevance_is_flat_where_there_is_nothing_to_tell():
    images = unit(1, 8).expand(9, 8)
    assert torch.equal(relevance(images, unit(2, 8, seed=1)), torch.zeros(9))
    assert torch.equal(relevance(unit(9, 8), unit(0, 8)), torch.zeros(9))
    assert relevance(unit(0, 8), unit(2, 8)).shape == (0,)
    assert relevance(torch.full((3, 8), torch.nan), unit(2, 8)).isnan().all()


@pytest.mark.filterwarnings("ignore:The dual encoder .* found only")
def test_relevance_of_a_question_takes_long_texts_in_parts(tmp_path):
    encoder = DualEncoder.from_pretrained(save_dual_encoder("open_clip", tmp_path / "model"), device="cpu")
    images = encoder.encode_images(np.random.default_rng(0).integers(0, 256, (12, 40, 64, 3), dtype=np.uint8))
    short = "What is the man holding?"
    expected = relevance(images, encoder.encode_texts([short, "the man is holding something"]))
    assert torch.equal(relevance_of(encoder, images, f"{short}\nAnswer briefly."), expected)
    first, second = "A man walks along the long river to the house.", "Then he sits down on a bench and reads a book."
    parts = encoder.split_text(f"{first} {second}")
    assert parts == [first, second]
    assert torch.equal(
        relevance_of(encoder, images, f"{first} {second}"), relevance(images, encoder.encode_texts(parts))
    )
    other = relevance_of(encoder, images, short, ["a red cup", "a blue book"], use_options=True)
    assert not torch.equal(other, expected)
    assert torch.equal(relevance_of(encoder, images, ""), torch.zeros(12))
    chosen = RULES["peaks"](expected, 4, features=images, times=torch.arange(12.0))
    assert chosen.shape == (4,)


@pytest.mark.parametrize("kind", ["clip", "siglip", "chinese_clip"])
def test_marks_in_a_question_do_not_end_its_text(kind, tmp_path):
    encoder = DualEncoder.from_pretrained(save_dual_encoder(kind, tmp_path / kind), device="cpu")
    images = torch.nn.functional.normalize(torch.randn(12, encoder.width), dim=-1)
    end = encoder.tokenizer.sep_token or encoder.tokenizer.eos_token
    marked, other = (relevance_of(encoder, images, f"red {end} {word}") for word in ("circle", "man"))
    assert not torch.equal(marked, other)
    assert torch.equal(marked, relevance_of(encoder, images, f"red {end[0]} {end[1:]} circle"))
