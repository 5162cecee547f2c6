#!/usr/bin/env bash
# kill -9 of a random rank at a random moment of a short run with a checkpoint after every other step,
# 50 times; each time the same command goes on, on another random number of ranks, until the run is
# done. The rows (but the times) and the final weights must be those of a run that was never killed.
#   scripts/check_kills.sh          KILLS=50 SEED=1 RANKS=4 (at most)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
mapfile -t settings < <(mpi_settings)
export "${settings[@]}"
program=$root/build/release/bin/rwkv-dist
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
kills=${KILLS:-50} most=${RANKS:-4}
RANDOM=${SEED:-1}
arguments=("$root/recipes/reverse.yaml" model.layers=2 model.width=32 model.head_size=16
  train.context=32 train.batch=5 train.steps=400 checkpoint.every=2 eval.batches=1 log.every=200)

start() { # start RANKS DIR
  exec timeout -k 10 120 mpirun -q --bind-to none -n "$1" "$program" "${arguments[@]}" "run.dir=$2"
}

# ranks_of DIR: the processes of the program itself, not those of mpirun.
ranks_of() {
  pgrep -f "^[^ ]*/rwkv-dist .*run\.dir=$1\$" || true
}

result_of() {
  sed 1d "$1/metrics.jsonl" | sed -E 's/"seconds":[^,]*,"tokens_per_s":[^,}]*//'
  "$program" verify "$1" | sed -n 's/.*weights/weights/p' | tail -n 1
}

(start 1 "$folder/whole") >/dev/null
result_of "$folder/whole" >"$folder/want"

failed=0 done_runs=0 killed=0 run=0
while ((killed < kills)); do
  run=$((run + 1)) attempts=0
  while true; do
    attempts=$((attempts + 1))
    ranks=$((1 + RANDOM % most))
    (start "$ranks" "$folder/run-$run") >"$folder/out" 2>&1 &
    job=$!
    victim=
    if ((killed < kills)); then
      # From before MPI has started to well into the run.
      sleep "$(printf '0.%03d' $((50 + RANDOM % 900)))"
      mapfile -t alive < <(ranks_of "$folder/run-$run")
      ((${#alive[@]})) && victim=${alive[RANDOM % ${#alive[@]}]}
      if [[ -n $victim ]] && kill -9 "$victim" 2>/dev/null; then
        killed=$((killed + 1))
      else
        victim=
      fi
    fi
    code=0
    wait "$job" || code=$?
    if ((code == 0)); then break; fi
    if [[ -z $victim ]]; then
      echo "run $run, attempt $attempts: code $code without a kill:"
      cat "$folder/out"
      failed=$((failed + 1))
      break
    fi
    # Ranks of a killed mpirun may live a second longer and hold the run folder's lock.
    while [[ -n $(ranks_of "$folder/run-$run") ]]; do sleep 0.05; done
  done
  result_of "$folder/run-$run" >"$folder/got" || true
  if cmp -s "$folder/want" "$folder/got"; then
    done_runs=$((done_runs + 1))
    echo "run $run: $attempts starts, same rows and weights ($killed kills so far)"
  else
    failed=$((failed + 1))
    echo "run $run: DIFFERS after $attempts starts"
    diff "$folder/want" "$folder/got" | head -n 4 || true
  fi
done
echo "$killed kills, $done_runs runs with the bits of the one that was never killed, $failed wrong"
((failed == 0))
