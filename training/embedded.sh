#!/bin/sh
# Makes the embedded model again: training/embedded.sh TEXT_FOLDER WORK_FOLDER [train options, such as --minutes 55]
# TEXT_FOLDER holds training text (*.txt, *.txt.xz) and heldout.txt.xz. Run from the repository's root.
set -eu
text=$1 work=$2
shift 2
files=$(find "$text" -name '*.txt' -o -name '*.txt.xz' | grep -v '/heldout\.' | sort)
# shellcheck disable=SC2086 # one argument for each file
[ -e "$work/data/corpus.json" ] || python -m training.prepare $files --heldout "$text/heldout.txt.xz" \
    --output "$work/data" --megabytes-per-file 28
python -m training.train --data "$work/data" --run "$work/run" --layers 4 --hidden 256 --intermediate 512 --heads 4 \
    --kv-heads 2 --context 1024 --batch 2 --micro-batch 2 --learning-rate 5e-3 --bf16 "$@"
python -m training.export --data "$work/data" --run "$work/run" --output "$work/model"
