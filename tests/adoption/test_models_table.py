"""The table of families in docs/models.md says what the code and the tests say."""

from pathlib import Path

import pytest
from adopted_models import FAMILIES, stock

from dynfocus.adoption import families
from dynfocus.adoption.families import frames_per_block, known_family

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "models.md"
START, END = "<!-- families -->\n", "<!-- /families -->"
HEAD = (
    "| family | model classes, each exact in the dense limit | a key frame is | frame size "
    "| coarse frames | times | transformers |\n|---|---|---|---|---|---|---|\n"
)


def row(family: families.Family) -> str:
    """One line of the table; the classes are those that tests/adoption/test_focus_processor.py runs."""
    tested = [stock(name) for name in FAMILIES]
    tested = [one for one in tested if known_family(one.processor) == family]
    classes = sorted({type(one.model).__name__.removesuffix("ForConditionalGeneration") for one in tested})
    is_pair = any(frames_per_block(family, one.processor) == 2 for one in tested)
    if family.times:
        times = f"written: `{family.times}`"
    elif family.positions == "seconds":
        times = "in positions"
    else:
        times = "no; `time_words=True`" if family.layout != "video" and not family.positions else "no"
    coarse = "`low`, `panels`" if family.native else "`panels`"
    return " | ".join(
        [
            f"| {family.name}",
            ", ".join(classes),
            {"blocks": "a pair of frames" if is_pair else "a frame", "video": "a frame", "images": "a picture"}[
                family.layout
            ],
            "its own" if family.native else "fixed by the model",
            coarse,
            times,
            f"{family.least_version} and later |\n",
        ]
    )


@pytest.mark.parametrize("family", families.FAMILIES, ids=lambda family: family.name)
def test_the_table_has_the_family_as_it_is(family):
    if all(known_family(stock(name).processor) != family for name in FAMILIES):
        # Newer than the installed transformers: its models cannot be made.
        assert family.least_version != "5.18"
        pytest.skip(f"{family.name} needs transformers {family.least_version}")
    table = DOCUMENT.read_text(encoding="utf-8").partition(START)[2].partition(END)[0]
    assert row(family) in table, f"docs/models.md lacks the line\n{row(family)}"


def test_the_table_has_no_other_families():
    table = DOCUMENT.read_text(encoding="utf-8").partition(START)[2].partition(END)[0]
    assert table.startswith(HEAD)
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [one.name for one in families.FAMILIES]


if __name__ == "__main__":
    print(HEAD + "".join(map(row, families.FAMILIES)))
