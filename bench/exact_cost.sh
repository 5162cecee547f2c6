#!/usr/bin/env bash
# What parallel.reduction=exact costs beside fast: the shortest step of each, runs taken in turns, for
# models of several sizes. Steps whose pass was repeated are left out.
#   bench/exact_cost.sh [LAYERSxWIDTH[:CONTEXT] ...]     PRECISION=bf16 ROUNDS=2 STEPS=8
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
program=build/release/bin/rwkv-dist
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
sizes=("$@")
((${#sizes[@]})) || sizes=(2x64:256 4x256:512 6x512:512 12x768:512)
printf '%-14s %-9s %12s %12s %8s\n' model context "fast ms" "exact ms" ratio
for size in "${sizes[@]}"; do
  model=${size%%:*} context=512
  [[ $size == *:* ]] && context=${size##*:}
  for ((round = 0; round < ${ROUNDS:-2}; ++round)); do
    for how in fast exact; do
      "$program" recipes/reverse.yaml "model.layers=${model%x*}" "model.width=${model#*x}" \
        model.head_size=64 "train.context=$context" train.batch=$((2048 / context)) \
        "train.steps=${STEPS:-8}" "parallel.reduction=$how" "precision=${PRECISION:-bf16}" \
        optimizer.lr=1e-3 eval.batches=1 run.resume=never "run.dir=$folder/$size-$how-$round" >/dev/null
    done
  done
  python3 - "$folder" "$size" "$model" "$context" <<'END'
import glob, json, sys
folder, size, model, context = sys.argv[1:]
best = {}
for how in ("fast", "exact"):
    rows = [json.loads(line) for path in glob.glob(f"{folder}/{size}-{how}-*/metrics.jsonl")
            for line in open(path).read().splitlines()[1:]]
    best[how] = min(row["seconds"] for row in rows if row["step"] > 1 and not row.get("repeated"))
print(f"{model:<14} {context:<9} {1e3 * best['fast']:12.2f} {1e3 * best['exact']:12.2f} "
      f"{best['exact'] / best['fast']:8.3f}")
END
done
