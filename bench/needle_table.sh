#!/usr/bin/env bash
# recipes/needle.yaml under every way to hand a state and its gradient on: the share of questions that
# held-out samples get right, near the facts, far from them and at the end, at the context it was
# trained with and at longer ones.
#   bench/needle_table.sh [ROW ...]        RANKS=2 STEPS=500 LONGER="8192 32768"
# A row is a word of keys joined by commas; the default is the whole table.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/lib.sh"
set_up_trial
rows=("$@")
((${#rows[@]})) || rows=(
  train.gradient=exact
  train.chunk=0
  train.gradient=truncated
  train.gradient=truncated,train.overlap=64
  train.gradient=truncated,train.overlap=128
  train.gradient=truncated,train.overlap=256
  train.handoff=none
  train.handoff=none,train.overlap=256
)
ranks=${RANKS:-2} longer=${LONGER-8192 32768}
# The three shares of an evaluation, in one line.
shares() {
  awk '$1 == "near" || $1 == "far" || $1 == "needle" { printf " %7s", $2 }'
}
printf '%-44s %8s %23s' keys seconds "near far needle: 2048"
for context in $longer; do printf ' %23s' "$context"; done
echo
for row in "${rows[@]}"; do
  rm -rf "$folder/run"
  IFS=, read -ra keys <<<"$row"
  begin=$SECONDS
  mpirun -q --bind-to none -n "$ranks" "$program" "$root/recipes/needle.yaml" run.dir="$folder/run" \
    parallel.data=1 parallel.sequence="$ranks" train.steps="${STEPS:-500}" "${keys[@]}" \
    >"$folder/out"
  printf '%-44s %8d' "$row" $((SECONDS - begin))
  awk '$1 == "result" || seen { seen = 1; print }' "$folder/out" | shares
  for context in $longer; do
    "$program" eval "$folder/run" train.context="$context" eval.batches=8 "${keys[@]}" | shares
  done
  echo
done
