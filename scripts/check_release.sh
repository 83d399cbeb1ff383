#!/usr/bin/env bash
# Builds the sdist and the wheel, checks them, and installs the wheel in a fresh environment of each Python given, where
# it must answer a question without the repository:
#
#   scripts/check_release.sh OUT [PYTHON …]          # by default python3; OUT must not exist
#
# Needs a package index, and about 6 GB for each environment. By hand, before a release.
set -euo pipefail
out="$(realpath -m "${1:?OUT, a folder that does not exist}")"
shift
[ ! -e "$out" ] || { echo "$out exists: give a new folder." >&2; exit 1; }
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
[ $# -gt 0 ] || set -- python3
mkdir -p "$out"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1

python3 -m venv "$out/build"
"$out/build/bin/pip" install build twine
git -C "$root" archive --prefix=source/ HEAD | tar -x -C "$out"
"$out/build/bin/python" -m build --outdir "$out/dist" "$out/source" > "$out/build.log" 2>&1
"$out/build/bin/twine" check --strict "$out"/dist/*
wheel=("$out"/dist/*.whl)

for python in "$@"; do
    name="$("$python" -c 'import sys; print("python{}.{}".format(*sys.version_info))')"
    "$python" -m venv "$out/$name"
    "$out/$name/bin/pip" install "${wheel[0]}"
    mkdir "$out/$name-work"
    cp "$root/examples/events.mp4" "$out/$name-work"
    cd "$out/$name-work"
    answer="$("$out/$name/bin/dynfocus" ask events.mp4 "Which number is shown with the red star?" --json 2> errors.txt)"
    case "$answer" in
        *'"answer": "472"'*) echo "$name: answers" ;;
        *) echo "$name: $answer $(cat errors.txt)" >&2; exit 1 ;;
    esac
    # Packages that only extras need are not installed with the core.
    for package in matplotlib gradio ray openai peft fastapi vllm; do
        if "$out/$name/bin/python" -c "import $package" 2> /dev/null; then
            echo "$name: $package is installed without its extra" >&2
            exit 1
        fi
    done
done
