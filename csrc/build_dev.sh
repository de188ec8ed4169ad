#!/bin/sh
# Builds the native module for `PYTHONPATH=src`: csrc/build_dev.sh [python] [jobs]
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
python=${1:-python3}
cmake -S "$root" -B "$root/build/dev" -G Ninja -DPython_EXECUTABLE="$(command -v "$python")" >/dev/null
cmake --build "$root/build/dev" -j "${2:-2}"
cp "$root"/build/dev/_native*.so "$root/src/vivace/backends/cpu/"
