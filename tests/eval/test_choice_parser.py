"""What the parser of multiple-choice answers reads, and what it refuses to guess."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynfocus.eval.metrics.multiple_choice_accuracy.choice_parser import MAX_WORDS_OF_MENTION, parse_choice

CARS = ("a blue car", "a red car", "a green bus", "a yellow bike")
YES_NO = ("Yes", "No")
NO_YES = ("No", "Yes")
UNSURE = ("Yes", "No", "It cannot be determined")
NUMBERS = ("1", "2", "3", "4")
SHIFTED = ("2", "3", "4", "5")
SIGNED = ("5", "-5", "1.5", "50%")
LETTERS = ("C", "A", "B", "D")
NESTED = ("red", "dark red", "blue", "dark")
NONE = ("a cat", "a dog", "None of the above", "All of the above")
BOTH = ("running", "jumping", "Both A and B", "Neither A nor B")
TEN = ("ant", "bee", "cow", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay")
STORY = ("He opens the door.", "He closes the door.", "He leaves the room", "He sits down, then he stands up.")
VITAMINS = ("vitamin A", "vitamin C", "vitamin D")
LABELLED = ("A. a blue car", "B. a red car", "C. a green bus")
SAME = ("a ball", "the ball", "a bat")
DIRECTIONS = ("left", "right", "up", "down")
A, B, C, D, E, I, J = 0, 1, 2, 3, 4, 8, 9  # noqa: E741
NOTHING = None

#: (answer, options, what it names, why)
TABLE = [
    # Letters by themselves
    ("B", CARS, B, "the letter"),
    ("b", CARS, B, "the letter, small"),
    ("B.", CARS, B, "with a full stop"),
    ("b.", CARS, B, "small, with a full stop"),
    (" B \n", CARS, B, "between spaces"),
    ("(B)", CARS, B, "in parentheses"),
    ("(b)", CARS, B, "small, in parentheses"),
    ("B)", CARS, B, "half a parenthesis"),
    ("(B", CARS, B, "half a parenthesis, as prompts that end in '(' get"),
    ("B)\n", CARS, B, "prompts that end in '(' get this"),
    ("[B]", CARS, B, "in brackets"),
    ("{B}", CARS, B, "in braces"),
    ("<B>", CARS, B, "in angle brackets"),
    ("B:", CARS, B, "with a colon"),
    ("B?", CARS, B, "in doubt, but it is the answer"),
    ("**B**", CARS, B, "bold"),
    ("**B.** a red car", CARS, B, "bold, then the text"),
    ("`B`", CARS, B, "as code"),
    ("'B'", CARS, B, "in quotes"),
    ("“B”", CARS, B, "in typographic quotes"),
    ("‘b’", CARS, B, "small, in typographic quotes"),
    ("Ｂ", CARS, B, "full width"),
    ("（Ｂ）", CARS, B, "full width, in parentheses"),
    ("Ⓑ", CARS, B, "in a circle"),
    ("【B】", CARS, B, "in Chinese brackets"),
    ("\u200bB\ufeff", CARS, B, "with invisible characters"),
    ("a", CARS, A, "an answer is no article"),
    ("A", CARS, A, "an answer is no article"),
    ("BBBBBBBB", CARS, B, "a model that cannot stop says one thing"),
    ("B B B", CARS, B, "a model that cannot stop says one thing"),
    ("B\nB\nB", CARS, B, "a model that cannot stop says one thing"),
    ("J", TEN, J, "the tenth option"),
    ("I", TEN, I, "the ninth option, no pronoun"),
    ("B</s>", CARS, B, "with an end token"),
    ("B<|im_end|>", CARS, B, "with an end token"),
    ("- B", CARS, B, "as an item of a list"),
    ("→ B", CARS, B, "after an arrow"),
    ("option_b", CARS, B, "as a name of a program"),
    # Letters out of range
    ("E", CARS, NOTHING, "there are four options"),
    ("(e)", CARS, NOTHING, "there are four options"),
    ("I", CARS, NOTHING, "there are four options"),
    ("C", YES_NO, NOTHING, "there are two options"),
    ("The answer is E.", CARS, NOTHING, "there are four options"),
    ("E. a red car", CARS, NOTHING, "letter and text contradict each other"),
    ("Option 7", CARS, NOTHING, "there are four options"),
    ("Option 0", CARS, NOTHING, "nobody counts options from 0"),
    ("The fifth option", CARS, NOTHING, "there are four options"),
    # Letters in sentences
    ("The answer is B.", CARS, B, "said so"),
    ("The answer is B", CARS, B, "said so"),
    ("The answer is (B).", CARS, B, "said so"),
    ("the answer is b", CARS, B, "said so, small"),
    ("The answer is a.", CARS, A, "a letter at the end is no article"),
    ("Answer: B", CARS, B, "said so"),
    ("ANSWER: b", CARS, B, "said so, small"),
    ("Answer - B", CARS, B, "said so"),
    ("Answer = B", CARS, B, "said so"),
    ("**Answer:** B", CARS, B, "said so, in bold"),
    ("**Final Answer**\n\nB", CARS, B, "a heading says so"),
    ("The best option is:\nB", CARS, B, "on the next line"),
    ("Best option: (B)", CARS, B, "said so"),
    ("The correct choice is therefore B", CARS, B, "said so"),
    ("I think B", CARS, B, "an opinion is an answer"),
    ("I would go with D.", CARS, D, "an opinion is an answer"),
    ("I'd say it's C", CARS, C, "an opinion is an answer"),
    ("I think it is (C) because the bus is green.", CARS, C, "the reason adds nothing"),
    ("B, because the car is red", CARS, B, "the reason adds nothing"),
    ("B because a blue car would look different", CARS, B, "the reason speaks of another option"),
    ("Probably B", CARS, B, "a doubtful answer is an answer"),
    ("Not sure, maybe B?", CARS, B, "a doubtful answer is an answer"),
    ("I am not sure. B", CARS, B, "a doubtful answer is an answer"),
    ("Definitely, B!", CARS, B, "an adverb adds nothing"),
    ("Based on the video, the correct answer is B.", CARS, B, "said so"),
    ("Based on the frames, the man drives a car, so the answer is B.", CARS, B, "said so in the end"),
    ("The answer to what the man drives is B.", CARS, B, "said so, with the question in between"),
    ("B is correct.", CARS, B, "said so the other way round"),
    ("B is the right answer", CARS, B, "said so the other way round"),
    ("Option B best describes the scene.", CARS, B, "said so"),
    ("Option B matches the video.", CARS, B, "the only option that is named"),
    ("option b", CARS, B, "an option, small"),
    ("Option B: a red car", CARS, B, "an option and its text"),
    ("Choice (B)", CARS, B, "an option"),
    ("It must be C", CARS, C, "said so"),
    ("The man drives past. B.", CARS, B, "a sentence of its own in the end"),
    ("B\n\nThe car in the video is red, not blue.", CARS, B, "the explanation adds nothing"),
    ("B\n\nExplanation: A is wrong, since the car is not blue.", CARS, B, "the explanation denies another option"),
    ("The answer is I", TEN, I, "a letter at the end is no pronoun"),
    ("I think a bee", TEN, B, "a pronoun is no letter"),
    ("A likely answer is B.", CARS, B, "an article is no letter"),
    ("A man is driving", CARS, NOTHING, "an article is no letter"),
    ("A man drives a red car", CARS, B, "an article is no letter, and the text is there"),
    ("It is a bus that comes", CARS, NOTHING, "an article is no letter, and a part of a text is no option"),
    ("He takes vitamin B", CARS, NOTHING, "a letter that has nothing to do with options"),
    ("The man walks to point B and turns", CARS, NOTHING, "a letter that has nothing to do with options"),
    ("U.S. troops", CARS, NOTHING, "an abbreviation has no letters of options"),
    ("It's the car's turn", CARS, NOTHING, "an s after an apostrophe is no letter of its own"),
    # Numbers and ordinals
    ("Option 2", CARS, B, "options can be counted"),
    ("option two", CARS, B, "options can be counted"),
    ("Option #2", CARS, B, "options can be counted"),
    ("The second option", CARS, B, "options can be counted"),
    ("The last option.", CARS, D, "options can be counted"),
    ("I choose the 3rd option", CARS, C, "options can be counted"),
    ("The second one", CARS, NOTHING, "may be the second car of the video"),
    ("2", CARS, NOTHING, "may be a number of cars, or count from 0"),
    ("3", NUMBERS, C, "the text"),
    ("three", NUMBERS, C, "the text, as a word"),
    ("There are three people.", NUMBERS, C, "the text within a sentence"),
    ("3", SHIFTED, B, "the text, not the place"),
    ("Option 3", NUMBERS, C, "text and place agree"),
    ("Option 3", SHIFTED, NOTHING, "text or place?"),
    ("3 of the 4", NUMBERS, NOTHING, "two texts"),
    ("-5", SIGNED, B, "a sign is part of a number"),
    ("5", SIGNED, A, "a sign is part of a number"),
    ("It is 1.5", SIGNED, C, "a point is part of a number"),
    ("50 %", SIGNED, NOTHING, "50 is no option; whether the percent sign belongs to it is a guess"),
    ("50%", SIGNED, D, "the text"),
    ("15", SIGNED, NOTHING, "parts of a number are no text"),
    # Texts
    ("a red car", CARS, B, "the text"),
    ("A red car.", CARS, B, "the text, as a sentence"),
    ("red car", CARS, B, "the text without its article"),
    ("The red car", CARS, B, "the text with another article"),
    ("A RED CAR!", CARS, B, "the text, loud"),
    ("“a red car”", CARS, B, "the text, quoted"),
    ("B. a red car", CARS, B, "letter and text"),
    ("b) a red car", CARS, B, "letter and text"),
    ("(B) a red car", CARS, B, "letter and text"),
    ("B a red car", CARS, B, "letter and text"),
    ("B.a red car", CARS, B, "letter and text without a space"),
    ("B: A red car.", CARS, B, "letter and text"),
    ("B. a red ca", CARS, B, "letter and a text that was cut off"),
    ("B. The man drives a red car past a blue car.", CARS, B, "the letter decides, the rest explains"),
    ("A. a blue car", CARS, A, "letter and text"),
    ("A blue car", CARS, A, "article or letter: the same option"),
    ("The answer is a red car", CARS, B, "the text in a sentence"),
    ("The man drives a red car.", CARS, B, "the text in a sentence"),
    ("He drives a red car. The red car is fast.", CARS, B, "the same text twice"),
    ("a red car (B)", CARS, B, "text and letter"),
    ("It is a red car, B", CARS, B, "text and letter"),
    ("He drives a red car, not a blue car.", CARS, B, "the other text is denied"),
    ("It's a red car rather than anything else", CARS, B, "one text"),
    ("B", LABELLED, B, "options that bring their letters"),
    ("a red car", LABELLED, B, "options that bring their letters"),
    ("B. a red car", LABELLED, B, "options that bring their letters"),
    ("He opens the door", STORY, A, "a sentence without its full stop"),
    ("he sits down then he stands up", STORY, D, "punctuation is no matter"),
    ("The man: he leaves the room", STORY, C, "the text within a sentence"),
    ("dark red", NESTED, B, "the longer text, which holds two others"),
    ("The car is dark red.", NESTED, B, "the longer text, which holds two others"),
    ("The car is red.", NESTED, A, "the shorter text"),
    ("The car is dark red, almost blue", NESTED, NOTHING, "two texts"),
    ("None of the above", NONE, C, "the text"),
    ("None of the above", CARS, NOTHING, "no option"),
    ("All of the above", CARS, NOTHING, "no option"),
    ("Both A and B", BOTH, C, "the text, whose letters are no choice"),
    ("C. Both A and B", BOTH, C, "letter and text"),
    ("The answer is C. Both A and B", BOTH, C, "the text, whose letters are no choice"),
    ("Neither A nor B", BOTH, D, "the text, whose letters are no choice"),
    ("Neither A nor B", CARS, NOTHING, "a denial is no choice"),
    ("vitamin C", VITAMINS, B, "the letter belongs to the text"),
    ("He takes vitamin D", VITAMINS, C, "the letter belongs to the text"),
    ("C", VITAMINS, C, "the letter alone is the option's"),
    ("the ball", SAME, B, "only the article tells them apart"),
    ("ball", SAME, NOTHING, "two options are called so"),
    ("He moves left", DIRECTIONS, A, "the text in a sentence"),
    ("He stands up and moves left", DIRECTIONS, NOTHING, "two texts"),
    ("Cars on a street", CARS, NOTHING, "no option's text"),
    ("carpet", ("car", "pet"), NOTHING, "a part of a word is no text"),
    ("A", LETTERS, NOTHING, "the letter of the first, or the text of the second?"),
    ("The answer is B", LETTERS, NOTHING, "the letter of the second, or the text of the third?"),
    ("D", LETTERS, D, "letter and text agree"),
    ("B. A", LETTERS, B, "letter and text"),
    # Yes and no
    ("Yes", YES_NO, A, "the text"),
    ("No.", YES_NO, B, "the text"),
    ("Yes, the man is running.", YES_NO, A, "the text comes first"),
    ("No, he is not.", YES_NO, B, "the text comes first"),
    ("The answer is no", YES_NO, B, "said so"),
    ("A: Yes", YES_NO, A, "letter and text"),
    ("A: Yes", NO_YES, NOTHING, "letter and text contradict each other, or A means answer"),
    ("A: the red one", CARS, NOTHING, "A may mean answer"),
    ("Yes and no", YES_NO, NOTHING, "two texts"),
    ("Yes or no", YES_NO, NOTHING, "two texts"),
    ("There is no dog in the video", YES_NO, NOTHING, "a word in passing is no answer"),
    ("Yes", CARS, NOTHING, "no option"),
    ("It cannot be determined", UNSURE, C, "the text"),
    ("It cannot be determined from this video.", UNSURE, C, "the text in a sentence"),
    ("B. No", YES_NO, B, "letter and text"),
    # Nothing
    ("", CARS, NOTHING, "nothing was said"),
    (None, CARS, NOTHING, "nothing was said"),
    (" \n ", CARS, NOTHING, "nothing was said"),
    ("...", CARS, NOTHING, "nothing was said"),
    ("?", CARS, NOTHING, "nothing was said"),
    ("I cannot tell", CARS, NOTHING, "a refusal"),
    ("I cannot tell whether it is a red car.", CARS, NOTHING, "a refusal that mentions a text"),
    ("Unable to determine", CARS, NOTHING, "a refusal"),
    ("Is it a red car?", CARS, NOTHING, "a question"),
    ("There is no red car", CARS, NOTHING, "a denial"),
    ("It is not a red car.", CARS, NOTHING, "a denial"),
    ("A red car is not visible", CARS, NOTHING, "a denial that comes after"),
    ("Not B", CARS, NOTHING, "a denial"),
    ("not B", YES_NO, NOTHING, "a denial, even where one option is left"),
    ("B is incorrect", CARS, NOTHING, "a denial"),
    ("The answer is not B.", CARS, NOTHING, "a denial"),
    ("All but B", CARS, NOTHING, "an exception"),
    ("anything but (B)", CARS, NOTHING, "an exception"),
    ("anything but a red car", CARS, NOTHING, "an exception"),
    ("nothing but a red car", CARS, B, "no exception"),
    ("<unk><unk>", CARS, NOTHING, "special tokens alone"),
    ("答案", CARS, NOTHING, "words of another language"),
    # More than one
    ("A or B", CARS, NOTHING, "two letters"),
    ("A/B", CARS, NOTHING, "two letters"),
    ("A, B", CARS, NOTHING, "two letters"),
    ("AB", CARS, NOTHING, "two letters"),
    ("A and B", CARS, NOTHING, "two letters"),
    ("A, B, and D", CARS, NOTHING, "three letters"),
    ("Both A and B", CARS, NOTHING, "two letters"),
    ("(A) (B)", CARS, NOTHING, "two letters"),
    ("Either A or B.", CARS, NOTHING, "two letters"),
    ("The answer is A or B.", CARS, NOTHING, "two letters"),
    ("The answer is A. The answer is B.", CARS, NOTHING, "two answers, none taken back"),
    ("a red car or a blue car", CARS, NOTHING, "two texts"),
    ("B. a blue car", CARS, NOTHING, "letter and text contradict each other"),
    ("The answer is B, a blue car.", CARS, NOTHING, "letter and text contradict each other"),
    ("a blue car (B)", CARS, NOTHING, "text and letter contradict each other"),
    ("B. The answer is C.", CARS, NOTHING, "two answers"),
    ("A. a blue car\nB. a red car\nC. a green bus\nD. a yellow bike", CARS, NOTHING, "the options, repeated"),
    ("A. a blue car B. a red car", CARS, NOTHING, "the options, repeated in one line"),
    ("(A) a blue car (B) a red car", CARS, NOTHING, "the options, repeated in one line"),
    ("A. blue, B. red, C. green", CARS, NOTHING, "the options, repeated in other words"),
    # Chains of thought, formats, corrections
    ("First the car comes. A is wrong.\nSo the final answer is D", CARS, D, "the end of a chain of thought"),
    ("A. It is not blue.\nB. It is red.\n\nTherefore, the answer is B.", CARS, B, "weighed, then chosen"),
    ("It is not B but C", CARS, C, "one is denied, one is named"),
    ("(B) is wrong, (C) is right", CARS, C, "one is denied, one is named"),
    ("A. a blue car B. a red car C. a green bus D. a yellow bike\nAnswer: B", CARS, B, "repeated, then chosen"),
    ("The options are A, B, C and D. I pick C.", CARS, C, "repeated, then chosen"),
    ("In the video, a car comes. It stops. Therefore, the best answer is C.", CARS, C, "described, then chosen"),
    ("The answer cannot be A, so it is C", CARS, C, "one is denied, one is named"),
    ("C, not D", CARS, C, "one is denied, one is named"),
    ("It could be A or B, but I think B.", CARS, B, "two are weighed, then one is chosen"),
    ("The answer is A. Wait, actually the answer is B.", CARS, B, "the first is taken back"),
    ("The answer seems to be A. ... Final answer: B", CARS, B, "one is called final"),
    ("<think>A? No, the car is red.</think>B", CARS, B, "thoughts are no answer"),
    ("<think>The answer is B", CARS, NOTHING, "a thought that was cut off"),
    ("<answer>B</answer>", CARS, B, "marked as the answer"),
    ("<answer> (B) a red car </answer>", CARS, B, "marked as the answer"),
    ("A or C? <answer>B</answer>", CARS, B, "only what is marked counts"),
    ("<answer>A</answer><answer>B</answer>", CARS, NOTHING, "two are marked"),
    ("\\boxed{B}", CARS, B, "in a box"),
    ("The answer is $\\boxed{\\text{B}}$.", CARS, B, "in a box, as text"),
    ('{"answer": "B"}', CARS, B, "as JSON"),
    ("```json\n{\"answer\": \"B\"}\n```", CARS, B, "as JSON in a block of code"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "options", "expected", "reason"), TABLE)
def test_table(answer, options, expected, reason):
    assert parse_choice(answer, options) == expected, reason


def test_table_is_large_and_has_no_row_twice():
    rows = [(answer, options) for answer, options, _, _ in TABLE]
    assert len(rows) == len(set(rows)) >= 200


# Properties

FORMS = (
    "{}",
    "{}.",
    "({})",
    "{})",
    "[{}]",
    "**{}**",
    "Answer: {}",
    "The answer is {}.",
    "Option {}",
    "I choose ({}).",
)
LISTS = st.lists(st.text(string.ascii_lowercase + " ", min_size=2, max_size=12), min_size=2, max_size=10)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("number", range(2, 11))
def test_every_letter_up_to_the_last_option_and_none_after_it(number, form):
    options = TEN[:number]
    for index, letter in enumerate(string.ascii_uppercase):
        expected = index if index < number else None
        assert parse_choice(form.format(letter), options) == expected
        assert parse_choice(form.format(letter.lower()), options) == expected


@pytest.mark.parametrize(
    "form", ["{} or {}", "({}) or ({})", "{}/{}", "{}, {}", "The answer is {} and {}.", "Option {}, option {}"]
)
def test_two_letters_are_no_choice(form):
    for first in TEN:
        for second in TEN:
            pair = [string.ascii_uppercase[TEN.index(one)] for one in (first, second)]
            if first != second:
                assert parse_choice(form.format(*pair), TEN) is None


@pytest.mark.parametrize(
    "form", ["{}", "The answer is {}.", "The animal in the video is: {}", "He feeds the {}!", "<answer>{}</answer>"]
)
def test_texts_are_found_wherever_they_stand_among_the_options(form):
    for shift in range(10):
        options = TEN[shift:] + TEN[:shift]
        for text in TEN:
            assert parse_choice(form.format(text), options) == options.index(text)


@settings(deadline=None)
@given(st.text(), LISTS)
def test_any_text_is_an_index_or_nothing(answer, options):
    choice = parse_choice(answer, options)
    assert choice is None or 0 <= choice < len(options)


@settings(deadline=None)
@given(LISTS.filter(lambda texts: len({text.strip() for text in texts}) == len(texts)), st.randoms())
def test_the_order_of_the_options_is_no_hint(options, rng):
    """An answer without letters names the same text wherever it stands, or none."""
    answer = f"I saw {options[0]} there"
    shuffled = rng.sample(options, len(options))
    first, second = parse_choice(answer, options), parse_choice(answer, shuffled)
    assert (first is None) == (second is None)
    if first is not None and second is not None:
        assert options[first] == shuffled[second]


def test_an_option_that_is_mentioned_in_a_long_text_is_no_choice():
    padding = "something moves and " * (MAX_WORDS_OF_MENTION // 2)
    assert parse_choice(f"{padding} a red car", CARS) is None
    assert parse_choice(f"{padding} a red car. The answer is B", CARS) == 1
    assert parse_choice("something moves and a red car", CARS) == 1


@pytest.mark.parametrize("number", [0, 1, 11])
def test_number_of_options_is_checked(number):
    with pytest.raises(ValueError, match=f"There are {number} options"):
        parse_choice("A", ["x"] * number)
