#!/usr/bin/env bash
# The promise of parallel.reduction=exact: for a small model and for one with every product of the
# 12 x 768 block, in fp32 and bf16, on 1, 2, 3, 4, 5 and 8 ranks x micro-batch 1, 2, all x threads 1,
# 2 x optimizer state whole or split, every row of the metrics (but the times) and the final weights
# have the same bits. Contexts are several leaves, leaves several tiles, the last ones cut short.
#   scripts/check_bits.sh [small|wide]     PRECISIONS="fp32 bf16" RANKS="1 2 3 4 5 8" PROGRAM=PATH
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
set_up_trial
failed=0 compared=0

# keys NAME: the model's part of the command line.
keys() {
  case $1 in
    small) echo model.layers=2 model.width=64 model.head_size=32 train.context=90 train.steps=6 parallel.leaf=32 parallel.tile=16 ;;
    wide) echo model.layers=2 model.width=768 model.head_size=64 train.context=44 train.steps=3 parallel.leaf=32 parallel.tile=16 ;;
  esac
}

check() {
  local model=$1 precision=$2 ranks micro threads shard run
  local -a arguments
  read -ra arguments <<<"$(keys "$model")"
  rm -f "$folder/want"
  for ranks in ${RANKS:-1 2 3 4 5 8}; do
    for micro in 1 2 8; do
      for threads in 1 2; do
        for shard in none optimizer; do
          run=$folder/run
          rm -rf "$run"
          timeout -k 10 300 mpirun -q --bind-to none -n "$ranks" "$program" "$root/recipes/reverse.yaml" \
            "${arguments[@]}" "precision=$precision" train.batch=8 "train.micro_batch=$micro" \
            "parallel.threads=$threads" "parallel.shard=$shard" eval.batches=1 "run.dir=$run" >/dev/null
          result_of "$program" "$run" >"$folder/got"
          [[ -e $folder/want ]] || cp "$folder/got" "$folder/want"
          compared=$((compared + 1))
          if ! cmp -s "$folder/want" "$folder/got"; then
            failed=$((failed + 1))
            echo "DIFFERS: $model $precision, $ranks ranks, micro-batch $micro, $threads threads, shard $shard"
          fi
        done
      done
    done
  done
  echo "$model $precision: $(tail -n 1 "$folder/want")"
}

for model in ${1:-small wide}; do
  for precision in ${PRECISIONS:-fp32 bf16}; do check "$model" "$precision"; done
done
echo "$compared layouts compared, $failed differ"
((failed == 0))
