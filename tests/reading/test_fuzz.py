"""Two thousand damaged files; more of them by hand with `scripts/fuzz_reading.py`."""

from pathlib import Path

import forked
import pytest

pytestmark = pytest.mark.integration

SCRIPT = Path(__file__).parents[2] / "scripts" / "fuzz_reading.py"


def test_damaged_files_are_read_or_refused_in_one_sentence():
    said = forked.run(SCRIPT, "--files", 2000)
    assert "2000 of 2000 files are read or refused as they should be" in said
