#!/usr/bin/env bash
# Tests what a user of the Hub sees, with several versions of transformers: each in an environment of its own, which has
# little more than transformers and torch.
set -euo pipefail

usage="usage: scripts/check_versions.sh [--base PYTHON] [--work DIR] [VERSION ...]

  VERSION        of transformers, such as 5.18 or 5.20.1, or the word newest
                 (default: 5.18, the oldest that is supported; 5.20, the newest that vLLM takes; newest)
  --base PYTHON  an interpreter whose packages serve again, torch above all: only what a version of transformers needs
                 otherwise is installed anew
  --work DIR     where environments and logs are made, and stay (default: a temporary folder)

Prints one line for each version, and ends with 1 if any of them failed."

refuse() {
    echo "check_versions.sh: $1" >&2
    exit 2
}

base="" work="" versions=()
while (($#)); do
    case "$1" in
        -h | --help)
            echo "$usage"
            exit
            ;;
        --base | --work)
            [[ -n "${2:-}" ]] || refuse "$1 needs a value: see --help."
            if [[ "$1" == --base ]]; then base="$2"; else work="$2"; fi
            shift
            ;;
        -*) refuse "there is no option $1: see --help." ;;
        newest) versions+=("$1") ;;
        *)
            [[ "$1" =~ ^[0-9]+(\.[0-9]+)+$ ]] || refuse "$1 is no version: give numbers such as 5.18, or newest."
            versions+=("$1")
            ;;
    esac
    shift
done
((${#versions[@]})) || versions=(5.18 5.20 newest)

python="${base:-${PYTHON:-$(command -v python3.11 || command -v python3 || true)}}"
# Not resolved any further: the link is what makes an environment's interpreter.
[[ "$python" != */* || "$python" == /* ]] || python="$PWD/$python"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    refuse "${python:-python3} does not run, or is older than Python 3.11: name another with --base or PYTHON=…."
shared=""
if [[ -n "$base" ]]; then
    "$python" -c 'import torch, torchvision' 2>/dev/null || refuse "$base lacks torch or torchvision: leave out --base."
    shared="$("$python" -c 'import sysconfig as s; print(*{s.get_path("purelib"), s.get_path("platlib")}, sep="\n")')"
fi

failed=0
if [[ -z "$work" ]]; then
    work="$(mktemp -d)"
    trap '((failed)) || rm -rf "$work"' EXIT
fi
mkdir -p "$work" 2>/dev/null || refuse "the folder $work cannot be made: give another as --work."
work="$(cd "$work" && pwd)"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tests=(tests/hub/test_remote_code.py tests/hub/test_hub_loading.py tests/modeling/test_vllm_contract.py)
# What the package imports at once, what its command line does, and what runs the tests.
packages=(torch torchvision av numpy pillow safetensors "typer>=0.16" rich accelerate pytest pytest-timeout hypothesis)
unset PYTHONPATH PYTHONHOME
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_QUIET=1
export OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES="" HF_HUB_OFFLINE=1

# Makes the environment $1 with the transformers of version $2, or brings it up to date.
install() {
    local in_it="$1/bin/python" wanted=("transformers==$2.*")
    if [[ "$2" == newest ]]; then
        wanted=(--upgrade transformers)
    fi
    "$python" -m venv "$1" &&
        # Packages to share are searched after the environment's own.
        echo "$shared" >"$("$in_it" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth" &&
        # Apart: what is upgraded is transformers alone.
        "$in_it" -m pip install "${wanted[@]}" &&
        "$in_it" -m pip install "${packages[@]}" &&
        "$in_it" -m pip install --no-deps -e .
}

for version in "${versions[@]}"; do
    environment="$work/$version" log="$work/$version.log"
    in_it="$environment/bin/python"
    if ! install "$environment" "$version" >"$log" 2>&1; then
        echo "transformers $version: cannot be installed: $(tail -n 1 "$log") (see $log)"
        failed=1
        continue
    fi
    found="$("$in_it" -P -c 'import transformers; print(transformers.__version__)')"
    if [[ "$version" != newest && "$found." != "$version."* ]]; then
        echo "transformers $version: the environment has $found instead (see $log)"
        failed=1
    elif "$in_it" -P -m pytest -p no:cacheprovider -rfE --tb=short "${tests[@]}" >>"$log" 2>&1; then
        echo "transformers $found: $(tail -n 1 "$log")"
    else
        broken="$(sed -nE 's/^(FAILED|ERROR) (tests[^ ].*)/\2/p' "$log" | sed 's/ - .*//' | sort -u | paste -sd ';')"
        echo "transformers $found: failed: ${broken:-$(tail -n 1 "$log")} (see $log)"
        failed=1
    fi
done
exit "$failed"
