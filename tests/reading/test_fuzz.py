"""Two thousand damaged files; more of them by hand with `scripts/fuzz_reading.py`."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "fuzz_reading.py"


def test_damaged_files_are_read_or_refused_in_one_sentence():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--files", "2000"], capture_output=True, text=True, timeout=280, errors="replace"
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-500:]
    assert "2000 of 2000 files are read or refused as they should be" in done.stdout
