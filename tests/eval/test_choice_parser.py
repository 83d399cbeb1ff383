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


def test_table():
    found = [(answer, parse_choice(answer, options), reason) for answer, options, _, reason in TABLE]
    assert found == [(answer, expected, reason) for answer, _, expected, reason in TABLE]


def test_table_is_large_and_has_no_row_twice():
    rows = [(answer, options) for answer, options, _, _ in TABLE]
    assert len(rows) == len(set(rows)) >= 200


# Answers that repeat the options, and last lines

LIST = "A. a blue car\nB. a red car\nC. a green bus\nD. a yellow bike"
WEIGHED = (
    "Let me look at each:\n\n**A. a blue car** - The car is not blue.\n**B. a red car** - Yes, it is.\n"
    "**C. a green bus** - No bus.\n**D. a yellow bike** - No bike."
)

#: (answer about CARS, what it names)
REPEATED = [
    (f"{LIST}\n\n**C**", C),
    (f"{LIST}\n\nC", C),
    (f"{LIST}\nA", A),
    (f"{LIST}\n\n(C)", C),
    (f"{LIST}\n\nC. a green bus", C),
    (f"{LIST}\n\n**C. a green bus**", C),
    (f"{LIST}\n\na green bus", C),
    (f"{LIST}\n\nThe correct option is (C)", C),
    (f"{LIST}\n\nIt's not B but C", C),
    (f"{LIST}\n\nC\n\nThe bus is green.", C),
    (f"**C**\n\n{LIST}", C),
    (f"Answer: C\n{LIST}", C),
    (f"What does he drive?\n{LIST}\n**C**", C),
    (f"{LIST.replace(chr(10), ' ')} **C**", C),
    (f"{LIST.replace(chr(10), ', ')}. C", C),
    ("(A) a blue car\n(B) a red car\n(C) a green bus\n(D) a yellow bike\n\n**(C)**", C),
    ("**A.** a blue car\n**B.** a red car\n**C.** a green bus\n**D.** a yellow bike\n\n**C**", C),
    ("- A: a blue car\n- B: a red car\n- C: a green bus\n- D: a yellow bike\n\nFinal: C", C),
    (LIST.replace("C. a green bus", "**C. a green bus**"), C),
    (LIST.replace("C. a green bus", "C. a green bus ✅"), C),
    ("[ ] A. a blue car\n[ ] B. a red car\n[x] C. a green bus\n[ ] D. a yellow bike", C),
    ("A. blue\nB. red\nC. green\nD. yellow\n\nC", C),
    ("A. blue, B. red, C. green, D. yellow\n\n**C**", C),
    (f"{WEIGHED}\n\n**B**", B),
    (f"{WEIGHED}\n\nTherefore, the correct option is **B**.", B),
    ("The blue car (A) is parked. The red car (B) moves.\n\nB", B),
    ("The man first looks at A, then at B.\n\n**C**", C),
    ("1. First the car.\n2. Then the bus.\n\n**C**", C),
    # No verdict, or more than one
    (f"{LIST}\n", NOTHING),
    (f"{LIST}\n\n**B**\n**C**", NOTHING),
    (f"{LIST}\n\nA or B", NOTHING),
    (f"{LIST}\n\nNot B", NOTHING),
    (f"{LIST}\n\nE", NOTHING),
    (f"{LIST}\n\nI don't know", NOTHING),
    (LIST.replace("B. a red car", "**B. a red car**").replace("C. a green bus", "**C. a green bus**"), NOTHING),
    (WEIGHED, NOTHING),
    ("A. blue\nB. red\nC. green\nD. yellow\n\n**B**\n**C**", NOTHING),
    ("A. blue\nB. red\nC", NOTHING),  # cut off
    ("A. a blue car\nB. a red car\nC.", NOTHING),
    ("A\nB\nC\nD", NOTHING),
    ("B\nC", NOTHING),
    ("**A**\n\n**B**", NOTHING),
    ("B. a red car\nC", NOTHING),
    ("The answer is A.\n\nB", NOTHING),
    ("The answer is not B.\n\nB", NOTHING),
    ("The answer could be A. It could also be B.", NOTHING),
    ("Either **A** or **B**", NOTHING),
]


@pytest.mark.parametrize(("answer", "expected"), REPEATED)
def test_options_that_are_repeated_are_no_choice_and_hide_none(answer, expected):
    assert parse_choice(answer, CARS) == expected


@pytest.mark.parametrize(
    "form",
    [
        "The final answer is: $\\boxed{{{}}}$",
        "A or B? \\boxed{{\\text{{{}}}}}",
        "\\boxed{{\\textbf{{({})}}}}",
        "\\(\\boxed{{{}}}\\)",
        "\\fbox{{{}}}",
        "It may be A. <|begin_of_box|>{}<|end_of_box|>",
        "#### {}",
        "####{}",
        "### Final Answer\n\n**{}**",
        "***{}***",
        "__{}__",
        "<b>{}</b>",
        "<strong>{}</strong>",
        "~~A~~ {}",
        "**Answer: {}**",
        "*Answer*: **{}**",
        "> {}",
        "[[{}]]",
        "The correct answer is option **{}**.",
        "The correct option is ({})",
        "「{}」",
        "{{'answer': '{}'}}",
        '{{"choice": "{}", "confidence": 0.9}}',
    ],
)
def test_marks_around_a_letter(form):
    for index, letter in enumerate("ABCD"):
        assert parse_choice(form.format(letter), CARS) == index
        wide = chr(ord("Ａ") + index)
        assert parse_choice(form.format(wide), CARS) == index


# Other languages

CHOOSING = {
    "Spanish": [
        "La respuesta correcta es la {}",
        "La respuesta correcta es la {}.",
        "Respuesta: {}",
        "La respuesta correcta es: **{}**",
        "la opción correcta es la {}",
        "La opción {} es la correcta.",
        "Creo que es la {}",
        "Es la {}",
        "La letra {}",
        "Por lo tanto, la respuesta correcta es **{}**.",
        "Según el video, la respuesta correcta es la {}.",
        "En el video se ve un coche, por lo que la respuesta correcta es {}.",
        "La respuesta correcta es la {}, ya que se ve bien.",
        "Elijo la opción {}",
        "Yo diría que es la opción {}.",
    ],
    "French": [
        "La bonne réponse est la {}.",
        "La réponse correcte est {}",
        "Réponse : {}",
        "C'est la réponse {}.",
        "La réponse est l'option {}",
        "Je pense que c'est {}",
        "D'après la vidéo, la bonne réponse est {}.",
        "{}, car on le voit",
        "Donc, la bonne réponse est ({}).",
        "Je choisis la réponse {}",
        "Je dirais {}.",
    ],
    "German": [
        "Die richtige Antwort ist {}.",
        "Antwort: {}",
        "Die Antwort lautet {}",
        "Antwort {} ist richtig.",
        "Ich denke, es ist {}",
        "Ich würde {} wählen.",
        "Richtig ist {}.",
        "{}, weil man es sieht",
        "Im Video sieht man es, daher ist {} die richtige Antwort.",
        "Die korrekte Option ist ({})",
    ],
    "Portuguese": [
        "A resposta correta é a {}",
        "A resposta correta é {}.",
        "Resposta: {}",
        "A alternativa correta é a letra {}",
        "Letra {}",
        "Alternativa {}",
        "Acho que é a {}",
        "Com base no vídeo, a resposta correta é {}.",
        "Portanto, a resposta é **{}**.",
        "A resposta certa é a {}, pois se vê bem.",
    ],
    "Italian": [
        "La risposta corretta è la {}",
        "La risposta corretta è {}.",
        "Risposta: {}",
        "L'opzione corretta è {}",
        "L'opzione {} è corretta",
        "Quindi la risposta giusta è la {}.",
        "Secondo il video, la risposta è {}.",
        "È la {}",
    ],
    "Russian": [
        "Правильный ответ: {}",
        "Правильный ответ — {}.",
        "Ответ: {}",
        "Верный вариант — {}",
        "Я думаю, что это {}",
        "{} — правильный ответ",
        "На видео это видно, поэтому ответ {}.",
        "Вариант {}",
    ],
    "Chinese": [
        "答案是{}。",
        "答案：{}",
        "正确答案是{}",
        "正確答案是 {}。",
        "选{}",
        "我选择{}。",
        "选项{}",
        "{}选项正确",
        "{}是正确的",
        "根据视频内容，答案是{}。",
        "视频中可以看到，因此选择{}。",
        "我认为答案是{}",
        "所以选（{}）",
        "故选{}。",
        "答案应该是{}",
        "最终答案：**{}**",
    ],
    "Japanese": [
        "答えは{}です。",
        "正解は{}です",
        "正解：{}",
        "{}が正解です。",
        "{}だと思います",
        "選択肢{}が正しい",
        "正しい答えは「{}」です。",
        "{}を選びます",
        "したがって、答えは{}です。",
    ],
    "Korean": [
        "정답은 {}입니다.",
        "정답: {}",
        "답은 {}입니다",
        "{}가 정답입니다.",
        "올바른 답은 {}입니다.",
        "따라서 정답은 {}입니다.",
        "선택지 {}가 맞습니다",
        "정답은 {}라고 생각합니다",
    ],
    "Dutch": ["Het antwoord is {}", "Het juiste antwoord is {}.", "Antwoord: {}", "Optie {}, want de auto is rood"],
    "Swedish": ["Svaret är {}", "Rätt svar är {}.", "Svar: {}"],
    "Turkish": ["Doğru cevap {}", "Doğru cevap: {}", "Cevap: {}."],
    "Vietnamese": ["Đáp án đúng là {}", "Đáp án: {}", "Đáp án là {}."],
    "Arabic": ["الإجابة الصحيحة هي {}", "الجواب هو {}.", "الإجابة: {}", "الخيار {}"],
}
DENYING = {
    "Spanish": ["No es la {}", "La respuesta no es {}", "La {} es incorrecta", "Todas menos la {}"],
    "French": ["La réponse n'est pas {}", "Ce n'est pas {}", "La réponse {} est fausse", "Tout sauf {}"],
    "German": ["Nicht {}", "Die Antwort ist nicht {}.", "{} ist falsch", "Alle außer {}"],
    "Portuguese": ["A resposta não é {}", "Não é a {}", "A resposta {} está errada"],
    "Italian": ["La risposta non è {}", "Non è {}", "La risposta {} è sbagliata"],
    "Russian": ["Ответ не {}", "Не {}", "{} неверно", "Все, кроме {}"],
    "Chinese": ["答案不是{}", "不是{}", "不选{}", "{}不正确", "{}错误", "除了{}"],
    "Japanese": ["答えは{}ではありません", "{}ではない", "{}は間違いです", "{}以外"],
    "Korean": ["정답은 {}가 아닙니다", "{}는 틀렸습니다", "{}를 제외한 모든 것"],
    "Dutch": ["Het antwoord is niet {}", "Antwoord {} is fout"],
    "Swedish": ["Svaret är inte {}", "Svaret {} är fel"],
    "Turkish": ["Cevap {} değil", "Cevap {} yanlış"],
    "Vietnamese": ["Đáp án không phải là {}", "Đáp án {} sai"],
    "Arabic": ["الإجابة ليست {}", "الإجابة {} خاطئة"],
}
JOINING = {
    "Spanish": ["{} o {}", "La respuesta es {} o {}", "La respuesta es la {} o la {}", "{} y {}", "Ni {} ni {}"],
    "French": ["{} ou {}", "La réponse est {} ou {}.", "{} et {}", "Ni {} ni {}"],
    "German": ["{} oder {}", "Die Antwort ist {} oder {}", "{} und {}", "Weder {} noch {}"],
    "Portuguese": ["{} ou {}", "A resposta é {} ou {}", "{} e {}", "Nem {} nem {}"],
    "Italian": ["{} o {}", "La risposta è {} oppure {}", "La risposta è {} e {}", "Né {} né {}"],
    "Russian": ["{} или {}", "Ответ: {} или {}", "{} и {}", "Ни {}, ни {}"],
    "Chinese": [
        "{}或{}",
        "答案是{}或{}",
        "答案是{}还是{}",
        "{}和{}",
        "{}、{}",
        "可能是{}，也可能是{}",
        "既不是{}也不是{}",
    ],
    "Japanese": ["{}または{}", "{}か{}です", "{}と{}", "答えは{}と{}です", "{}でも{}でもない"],
    "Korean": ["{} 또는 {}", "정답은 {}나 {}입니다", "{}와 {} 둘 다"],
    "Dutch": ["Het antwoord is {} of {}", "Het antwoord is {} en {}"],
    "Swedish": ["Svaret är {} eller {}", "Svaret är {} och {}"],
    "Turkish": ["Cevap {} veya {}", "Cevap {} ve {}"],
    "Vietnamese": ["Đáp án là {} hoặc {}", "Đáp án là {} và {}"],
    "Arabic": ["الإجابة {} أو {}", "الإجابة {} و {}"],
}
REPLACING = {
    "Spanish": ["No es la {}, sino la {}", "La respuesta no es la {} sino la {}"],
    "French": ["Ce n'est pas {} mais {}"],
    "German": ["Nicht {}, sondern {}", "Die richtige Antwort ist nicht {}, sondern {}."],
    "Portuguese": ["Não é {}, mas {}"],
    "Italian": ["Non è {}, ma {}"],
    "Russian": ["Не {}, а {}"],
    "Chinese": ["不是{}而是{}", "答案不是{}，是{}", "排除{}，选{}"],
    "Japanese": ["{}ではなく{}です"],
    "Korean": ["{}가 아니라 {}입니다"],
    "Dutch": ["Het antwoord is niet {} maar {}"],
    "Swedish": ["Svaret är inte {} utan {}"],
    "Turkish": [],
    "Vietnamese": [],
    "Arabic": ["الإجابة ليست {} بل {}"],
}
#: The options, what says the second one in words, and what does not.
WORDS = {
    "Spanish": (("un coche azul", "un coche rojo"), ["El hombre conduce un coche rojo."], ["No es un coche rojo"]),
    "French": (
        ("une voiture bleue", "une voiture rouge"),
        ["C'est une voiture rouge."],
        ["Ce n'est pas une voiture rouge"],
    ),
    "German": (
        ("ein blaues Auto", "ein rotes Auto"),
        ["Das ist ein rotes Auto."],
        ["Ich weiß nicht, ob es ein rotes Auto ist"],
    ),
    "Portuguese": (("um carro azul", "um carro vermelho"), ["É um carro vermelho."], ["Não é um carro vermelho"]),
    "Italian": (("un'auto blu", "un'auto rossa"), ["Guida un'auto rossa."], ["Non è un'auto rossa"]),
    "Russian": (("синяя машина", "красная машина"), ["Это красная машина."], ["Это не красная машина"]),
    "Chinese": (
        ("蓝色的车", "红色的车"),
        ["答案是红色的车", "她开着红色的车"],
        ["不是红色的车", "不知道是不是红色的车"],
    ),
    "Japanese": (("青い車", "赤い車"), ["赤い車です"], ["赤い車ではありません"]),
    "Korean": (("파란 차", "빨간 차"), ["빨간 차입니다."], ["빨간 차가 아닙니다"]),
}


@pytest.mark.parametrize("language", CHOOSING)
def test_other_languages(language):
    for index, letter in enumerate("ABCD"):
        other = "ABCD"[index - 1]
        for form in CHOOSING[language]:
            assert parse_choice(form.format(letter), CARS) == index, form.format(letter)
            assert parse_choice(f"{LIST}\n\n{form.format(letter)}", CARS) == index, form.format(letter)
            assert parse_choice(form.format("E"), CARS) is None, form.format("E")
        for form in DENYING[language]:
            assert parse_choice(form.format(letter), CARS) is None, form.format(letter)
        for form in JOINING[language]:
            assert parse_choice(form.format(letter, other), CARS) is None, form.format(letter, other)
        for form in REPLACING[language]:
            assert parse_choice(form.format(other, letter), CARS) == index, form.format(other, letter)


@pytest.mark.parametrize("language", WORDS)
def test_texts_of_options_in_other_languages(language):
    options, saying, not_saying = WORDS[language]
    for answer in (options[1], f"B. {options[1]}", f"B: {options[1]}", *saying):
        assert parse_choice(answer, options) == 1, answer
    first = CHOOSING[language][0].format("B").rstrip("。.")
    assert parse_choice(f"{first}: {options[1]}", options) == 1
    for answer in (f"{first}: {options[0]}", *not_saying):
        assert parse_choice(answer, options) is None, answer


def test_cyrillic_letters_that_look_like_others_are_no_choice():
    assert [parse_choice(f"Ответ: {letter}", CARS) for letter in "АБВГС"] == [A, B, NOTHING, D, C]
    assert parse_choice("В видео едет машина", CARS) is NOTHING


def test_words_of_other_languages_change_no_english_answer():
    assert parse_choice("A car drives by, and it is die-cast, so B", CARS) == B
    assert parse_choice("It is the red car, not A or B but C", CARS) is NOTHING
    assert parse_choice("No, it is B", CARS) == parse_choice("The answer is B", CARS) == B


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
def test_every_letter_up_to_the_last_option_and_none_after_it(form):
    for number in range(2, 11):
        options = TEN[:number]
        for index, letter in enumerate(string.ascii_uppercase):
            expected = index if index < number else None
            assert parse_choice(form.format(letter), options) == expected, (letter, number)
            assert parse_choice(form.format(letter.lower()), options) == expected, (letter, number)


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


@pytest.mark.parametrize(
    ("chosen", "refused"),
    [
        (
            [
                "Prawidłowa odpowiedź to {}",
                "Poprawna odpowiedź to {}.",
                "Odpowiedź: {}",
                "{} to prawidłowa odpowiedź.",
            ],
            ["Odpowiedź to nie {}.", "Odpowiedź {} jest błędna.", "Odpowiedź to nie jest {}"],
        ),
        (
            [
                "Jawaban yang benar adalah {}",
                "Jawabannya adalah {}.",
                "Jawaban: {}",
                "Jawaban yang tepat adalah opsi {}.",
            ],
            ["Jawabannya bukan {}.", "Jawaban {} salah.", "Jawaban yang benar bukanlah {}"],
        ),
        (["Câu trả lời đúng là {}.", "Câu trả lời là {}"], ["Câu trả lời không phải {}.", "Câu trả lời {} là sai."]),
    ],
    ids=["Polish", "Indonesian", "Vietnamese"],
)
def test_answers_in_further_languages(chosen, refused):
    for index, letter in enumerate("ABCD"):
        for form in chosen:
            assert parse_choice(form.format(letter), CARS) == index, form
        for form in refused:
            assert parse_choice(form.format(letter), CARS) is None, form
    for pair in ("Odpowiedź to A lub B", "Odpowiedź to B i C", "Jawabannya adalah A atau B", "Jawaban: B dan C"):
        assert parse_choice(pair, CARS) is None, pair
