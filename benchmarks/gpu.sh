#!/bin/bash
# What DynFocus costs on one GPU, in at most ten minutes: the first token and a training step of both roads beside dense
# models, at the sizes of 0.5B and 7B models, in bfloat16, with random weights. Tables go to the screen, and with JSON
# into a folder.
#
#     bash benchmarks/gpu.sh [--out FOLDER] [--wheels FOLDER] [--minutes 10] [--cpu]
#
# --wheels   installs the wheels of this folder and this package into a folder of its own first, without a network and
#            without changing the Python that is there: for a machine that has torch, but not the versions needed here.
# --cpu      a dry run of the same commands at the smallest sizes on a CPU; its numbers mean nothing.
#
# What takes longer than the time that is left is stopped, and said; the steps that matter most come first.
set -u
cd "$(dirname "$0")/.."
out=runs/gpu wheels="" minutes=10 cpu=""
while [ $# -gt 0 ]; do
    case $1 in
        --out) out=$2; shift 2 ;;
        --wheels) wheels=$2; shift 2 ;;
        --minutes) minutes=$2; shift 2 ;;
        --cpu) cpu=1; shift ;;
        *) echo "gpu.sh: unknown option $1; see the top of the file." >&2; exit 2 ;;
    esac
done
deadline=$((SECONDS + minutes * 60 - 10))
python=${PYTHON:-python3}
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
mkdir -p "$out"

if [ -n "$wheels" ]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    quiet="-q --no-index --no-deps --no-compile --no-cache-dir --target $site"
    # shellcheck disable=SC2086
    $python -m pip install $quiet "$wheels"/*.whl && $python -m pip install $quiet --no-build-isolation . || exit 1
    export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi
if [ -n "$cpu" ]; then
    export CUDA_VISIBLE_DEVICES=
    device=cpu
else
    device=cuda
    $python -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' \
        || { echo "gpu.sh: torch sees no GPU; --cpu makes a dry run." >&2; exit 1; }
fi
$python -c 'import dynfocus, torch, transformers; print(dynfocus.__version__, torch.__version__, transformers.__version__)' \
    || { echo "gpu.sh: install this package first, or give --wheels." >&2; exit 1; }

failed=0
# run NAME SCRIPT OPTIONS…: one benchmark within the time that is left, its tables into NAME.txt and NAME.json.
run() {
    local name=$1 script=$2 left=$((deadline - SECONDS)) start=$SECONDS code
    shift 2
    if [ "$left" -lt 20 ]; then
        echo "== $name: no time left"; failed=1
        return
    fi
    echo "== $name ($left s left)"
    timeout -k 5 "$left" $python -W ignore "benchmarks/$script.py" --device $device "$@" --json "$out/$name.json" \
        > "$out/$name.txt" 2> "$out/$name.err"
    code=$?
    cat "$out/$name.txt"
    [ $code -eq 0 ] || { tail -n 5 "$out/$name.err"; echo "== $name: stopped with $code"; failed=1; }
    echo "== $name took $((SECONDS - start)) s"
}

if [ -n "$cpu" ]; then
    run adopted-7b adopted --size reduced --layouts Qwen3-VL --frames 8 --rounds 1 --file-seconds 0 --minutes "" --training
    run trained-7b versus_peers --size tiny --frames 2 --rounds 1
    run training-7b training_throughput --scale tiny --frames 1 --rounds 1 --absolute
else
    run adopted-7b adopted --size 7b --frames 128 --rounds 3 --file-seconds 0 --minutes "" --training
    run trained-7b versus_peers --size 7b --frames 32,128 --rounds 3
    run training-7b training_throughput --scale 7b --frames 8,32 --rounds 3 --gradient-checkpointing
    run adopted-0.5b adopted --size 0.5b --frames 128 --rounds 3 --file-seconds 0 --minutes "" --training
    run trained-0.5b versus_peers --size 0.5b --frames 32,128 --rounds 3
    run training-0.5b training_throughput --scale 0.5b --frames 8,32,128 --rounds 3
    run adopted-far adopted --size 7b --layouts Qwen3-VL --frames 512 --rounds 3 --file-seconds 0 --minutes ""
fi
echo "== results in $out, $SECONDS s in all"
exit $failed
