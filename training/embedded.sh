#!/bin/sh
# Makes the embedded model, its draft and its Medusa heads again:
#   training/embedded.sh TEXT_FOLDER WORK_FOLDER MINUTES [train options, such as --compile --processes 2 --threads 1]
# TEXT_FOLDER holds training text (*.txt, *.txt.xz) and heldout.txt.xz; MINUTES are those of the model, the draft takes
# a sixth of them. Every step goes on where it was stopped; with more MINUTES a finished run is
# trained further. Run from the repository's root, with vivace importable.
set -eu
text=$1 work=$2 minutes=$3
shift 3
export OMP_WAIT_POLICY=passive # spinning threads cost two thirds of the speed where others compute too
files=$(find "$text" -name '*.txt' -o -name '*.txt.xz' | grep -v '/heldout\.' | sort)
# shellcheck disable=SC2086 # one argument for each file
[ -e "$work/data/corpus.json" ] || python -m training.prepare $files --heldout "$text/heldout.txt.xz" \
    --output "$work/data" --megabytes-per-file 45 --max-length 2048 --chat-fraction 0.06

python -m training.train --data "$work/data" --run "$work/run" --layers 4 --hidden 256 --intermediate 512 --heads 4 \
    --kv-heads 2 --max-length 2048 --context 512 --final-context 2048 --final-fraction 0.3 --batch 4 --final-batch 9 --micro-batch 2 \
    --learning-rate 5e-3 --bf16 --minutes "$minutes" "$@"
python -m training.export --data "$work/data" --run "$work/run" --output "$work/embedded" --gguf q8_0

python -m training.train --data "$work/data" --run "$work/draft-run" --teacher "$work/run" --layers 2 --hidden 96 \
    --intermediate 128 --heads 3 --kv-heads 1 --max-length 2048 --context 512 --final-context 2048 --final-fraction 0.3 --batch 4 \
    --micro-batch 2 --learning-rate 5e-3 --bf16 --minutes "$((minutes / 6 + 1))" "$@"
python -m training.export --data "$work/data" --run "$work/draft-run" --target "$work/run" \
    --output "$work/embedded-draft" --gguf q8_0

heads=$work/embedded-medusa
if [ -e "$heads/medusa.json" ] && [ "$heads/medusa.json" -ot "$work/embedded/model.safetensors" ]; then rm -r "$heads"; fi
[ -e "$heads/medusa.json" ] || python -m vivace train-medusa "$work/embedded" --data "$work/data/prompts.txt" \
    --output "$heads" --num-sequences 512 --steps 450 --batch 384
python -m training.medusa_card "$heads"
echo "to ship them: cp -r $work/embedded $work/embedded-draft $work/embedded-medusa src/vivace/resources/"
