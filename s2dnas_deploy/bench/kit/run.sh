#!/bin/sh
# Measure the bundle in this folder on this device: sh run.sh [options of s2dnas-bench]
set -eu
cd "$(dirname "$0")"
PYTHON="${PYTHON:-python3}"
export S2DNAS_PYTHON="$PYTHON"

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "this needs Python 3.10 or newer, and $PYTHON is not; name another: PYTHON=... sh run.sh" >&2
    exit 1
}
here=$("$PYTHON" -c 'import platform, sys; print("%d.%d" % sys.version_info[:2], platform.machine())')
if [ "$(cat packages/.for 2> /dev/null || true)" != "$here" ]; then
    rm -rf packages
    mkdir packages
    if "$PYTHON" -c 'import click, numpy, onnxruntime, PIL' 2> /dev/null; then
        # The board's own packages do; a Jetson's onnxruntime knows its GPU, another does not.
        "$PYTHON" -m zipfile -e wheels/s2dnas_deploy-*.whl packages
    elif [ -e wheels/for ]; then
        if [ "$(cat wheels/for)" != "$here" ]; then
            echo "the packages in this kit are for Python $(cat wheels/for), and $PYTHON is $here;" \
                "name another: PYTHON=... sh run.sh, or pack with --python and --platform" >&2
            exit 1
        fi
        for wheel in wheels/*.whl; do
            "$PYTHON" -m zipfile -e "$wheel" packages
        done
    else
        "$PYTHON" -m pip install --quiet --no-cache-dir --target packages wheels/s2dnas_deploy-*.whl || {
            echo "pip could not get the packages; without pip or internet, pack with --platform" >&2
            exit 1
        }
    fi
    echo "$here" > packages/.for
fi
export PYTHONPATH="$PWD/packages${PYTHONPATH:+:$PYTHONPATH}"
bench() { "$PYTHON" -m s2dnas_deploy.cli bench "$@"; }

if [ -e bundle.static.onnx ]; then
    set -- --static bundle.static.onnx "$@"
fi
rm -rf results results.zip
mkdir results
bench bundle --data images.npz --out results/bench.json --html results/bench.html "$@"
if [ -d probes ]; then
    bench probes --out results/device.json
fi
# A board without a battery may think that it is 1970, before the first date that a zip knows.
"$PYTHON" -c 'import pathlib, zipfile
with zipfile.ZipFile("results.zip", "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
    for path in sorted(pathlib.Path("results").iterdir()):
        archive.write(path)'
echo "done: bring back $PWD/results.zip"
