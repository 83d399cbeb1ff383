#!/usr/bin/env bash
# Tests the page of `dynfocus demo` in Chromium: upload, answer, player, key frames, mistakes, a telephone's screen.
set -euo pipefail

usage="usage: scripts/check_browser.sh [--out DIR] [PYTEST OPTION ...]

  --out DIR   where pictures of the page are kept (default: a temporary folder, which is printed)

Needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver), and an environment with
pip install -e '.[demo,test]' selenium."

refuse() {
    echo "check_browser.sh: $1" >&2
    exit 2
}

out=""
case "${1:-}" in
    -h | --help)
        echo "$usage"
        exit
        ;;
    --out)
        [[ -n "${2:-}" ]] || refuse "--out needs a folder: see --help."
        mkdir -p "$2" && out="$(cd "$2" && pwd)"
        shift 2
        ;;
esac
for program in chromium chromedriver; do
    command -v "$program" >/dev/null || refuse "there is no $program: see --help."
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python -c 'import gradio, selenium, pytest' 2>/dev/null || refuse "gradio, selenium or pytest is missing: see --help."

export BROWSER_PICTURES="${out:-$(mktemp -d)}" HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES="" no_proxy=127.0.0.1
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
python -m pytest -m browser -p no:cacheprovider tests/cli/test_demo_browser.py "$@"
echo "Pictures of the page: $BROWSER_PICTURES"
