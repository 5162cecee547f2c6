#!/usr/bin/env bash
# kill -9 of a random rank, 50 times, while it starts, trains or saves; then the same command again,
# on a random number of ranks, until the run is done, and then another run. Every step-N that a kill
# leaves must be good, and at the end the rows (but their times) and the weights must be those of a run
# that was never killed.
#   scripts/check_kills.sh     KILLS=50 SEED=1 RANKS="1 2 3 4": the numbers of ranks to choose from
#   scripts/check_kills.sh sequences       each start also splits its sequences in another way: data x
#                                          sequence ranks, chunk, exchange, stash, micro-batch at random.
#                                          STOPS=2: and stops by itself after as many steps
# WIDTH=32 STEPS=160 PRECISION=bf16: the model and how long it trains.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
set_up_trial
kills=${KILLS:-50}
read -ra choices <<<"${RANKS:-1 2 3 4}"
RANDOM=${SEED:-1}
# About as much saving as training.
recipe=("$root/recipes/reverse.yaml" model.layers=2 "model.width=${WIDTH:-32}" model.head_size=16
  train.batch=5 "train.steps=${STEPS:-160}" "precision=${PRECISION:-bf16}" checkpoint.every=2
  eval.batches=1 log.every=200 parallel.threads=1)
case ${1:-} in
  '') recipe+=(train.context=32) ;;
  sequences) recipe+=(train.context=112 parallel.leaf=16 parallel.tile=8) ;;
  *) fail "unknown argument '$1' (allowed: sequences)" ;;
esac
split=${1:-}

# pick NAME WORD...: sets NAME to one of them.
pick() { printf -v "$1" '%s' "${@:2+RANDOM % ($# - 1):1}"; }

# layout RANKS: keys for as many ranks, which the numbers must not depend on. Sets `keys`.
layout() {
  keys=()
  [[ $split == sequences ]] || return 0
  local sequence=$((1 + RANDOM % $1)) chunk exchange stash micro
  pick chunk 0 16 32 48
  pick exchange auto gather ring two_level
  pick stash all sqrt
  pick micro 1 2 3
  keys=("parallel.sequence=$sequence" "parallel.data=$(($1 / sequence < 5 ? $1 / sequence : 5))"
    "train.chunk=$chunk" "parallel.exchange=$exchange" "train.stash=$stash"
    "train.micro_batch=$micro")
}

start() { # start RANKS RUN KEY=VALUE...; replaces the shell
  exec timeout -k 10 300 mpirun -q --bind-to none -n "$1" "$program" "${recipe[@]}" "run.dir=$2" \
    "${@:3}"
}

milliseconds() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }

# rank_process JOB RANK: the process of that rank, where JOB is the timeout around its mpirun.
rank_process() {
  local launcher process
  for launcher in $(pgrep -P "$1"); do
    for process in $(pgrep -P "$launcher"); do
      if grep -qzx "OMPI_COMM_WORLD_RANK=$2" "/proc/$process/environ" 2>/dev/null; then
        echo "$process"
        return
      fi
    done
  done
}

# saving RUN: a checkpoint of this start, not one that an earlier one left, is half written.
saving() {
  local half
  for half in "$1"/checkpoints/step-*.tmp; do
    if [[ $half -nt $folder/started ]]; then return; fi
  done
  return 1
}

# strike JOB RUN RANK MOMENT DELAY: kills RANK DELAY ms after it exists, or MOMENT "save": after the
# first half of a checkpoint is there. Fails when the job ends before. Sets `waited`.
strike() {
  local job=$1 run=$2 rank=$3 moment=$4 delay=$5 process='' begin
  while [[ -z $process ]]; do
    kill -0 "$job" 2>/dev/null || return 1
    process=$(rank_process "$job" "$rank")
  done
  begin=$(milliseconds)
  if [[ $moment == save ]]; then
    until saving "$run"; do
      kill -0 "$process" 2>/dev/null || return 1
      sleep 0.002
    done
  fi
  sleep "$(printf '%d.%03d' $((delay / 1000)) $((delay % 1000)))"
  waited=$(($(milliseconds) - begin))
  kill -9 "$process" 2>/dev/null
}

# end_of JOB STATE: waits for the job's end, which a dead rank must bring at once. Open MPI 4.1 itself
# waits for ever, whatever the program, when a rank dies while it introduces itself to mpirun, and
# says "PMIX ERROR"; then this ends it as its user would. Any other wait is a fault.
end_of() {
  local job=$1 state=$2 tenths launcher
  local -a processes
  for ((tenths = 0; tenths < 100; tenths++)); do
    kill -0 "$job" 2>/dev/null || return 0
    sleep 0.1
  done
  if [[ $state == starting ]] && grep -q 'PMIX ERROR' "$folder/said"; then
    stuck=$((stuck + 1))
  else
    wrong "mpirun goes on without the rank"
  fi
  for launcher in $(pgrep -P "$job"); do
    mapfile -t processes < <(pgrep -P "$launcher"; echo "$launcher")
    kill -9 "${processes[@]}" 2>/dev/null || true
  done
}

# newest RUN: steps of its last checkpoint; 0 when it has none.
newest() {
  local last
  last=$(compgen -G "$1/checkpoints/step-*[0-9]" | sed 's/.*step-//' | sort -n | tail -n 1)
  echo "${last:-0}"
}

# state_of RUN: what the kill came into.
state_of() {
  if saving "$1"; then
    echo saving
  elif [[ $1/metrics.jsonl -nt $folder/started ]]; then
    echo training
  else
    echo starting
  fi
}

# wrong WHAT: says it with what the program said.
wrong() {
  failed=$((failed + 1))
  echo "WRONG: $*"
  tail -n 20 "$folder/said"
}

# one_start RUN: 0 when the run is done, 1 when it was killed, 2 when it is lost. Always draws as many
# random numbers, so that a seed means the same kills as nearly as clocks permit.
one_start() {
  local run=$1 ranks=${choices[RANDOM % ${#choices[@]}]} delay=$RANDOM job code=0 state
  local rank=$((RANDOM % ranks)) moments=(start run save) spans=(120 1500 12)
  local which=$((RANDOM % 3))
  layout "$ranks"
  if [[ -n ${STOPS:-} ]]; then keys+=("train.stop_at=$(($(newest "$run") + STOPS))"); fi
  touch "$folder/started"
  (start "$ranks" "$run" "${keys[@]}") >"$folder/said" 2>&1 &
  job=$!
  local struck=false
  if ((killed < kills)) &&
    strike "$job" "$run" "$rank" "${moments[which]}" $((delay % spans[which])); then
    struck=true
  fi
  if $struck; then
    state=$(state_of "$run")
    end_of "$job" "$state"
  fi
  wait "$job" 2>/dev/null || code=$?
  if ((code == 0)); then return 0; fi
  if ! $struck && ((code == 85)); then
    stops=$((stops + 1))
    echo "stop $stops on $ranks ranks, ${keys[*]}"
    return 1
  fi
  if ! $struck; then
    wrong "code $code without a kill"
    return 2
  fi
  killed=$((killed + 1))
  count[$state]=$((count[$state] + 1))
  echo "kill $killed: rank $rank of $ranks, $waited ms after its start, $state${keys[*]:+, ${keys[*]}}"
  if compgen -G "$run/checkpoints/step-*[0-9]" >/dev/null; then
    "$program" verify "$run" >"$folder/said" 2>&1 || wrong "a checkpoint is damaged"
  fi
  return 1
}

declare -A count=([starting]=0 [training]=0 [saving]=0)
failed=0 killed=0 stops=0 stuck=0 same=0 number=0
(start 1 "$folder/whole") >/dev/null
result_of "$program" "$folder/whole" >"$folder/want"
while ((killed < kills && failed < 5)); do
  number=$((number + 1)) starts=0
  run=$folder/run-$number
  outcome=1
  while ((outcome == 1)); do
    starts=$((starts + 1)) outcome=0
    one_start "$run" || outcome=$?
  done
  if ((outcome == 2)); then continue; fi
  result_of "$program" "$run" >"$folder/got" || true
  if diff "$folder/want" "$folder/got" | head -n 6 >"$folder/said"; then
    same=$((same + 1))
    echo "run $number: done after $starts starts, same rows and weights"
  else
    wrong "run $number differs after $starts starts"
  fi
done
if ((stops)); then echo "$stops starts did what they were asked for and stopped"; fi
if ((stuck)); then echo "mpirun itself was stuck $stuck times (PMIX ERROR)"; fi
echo "$killed kills (${count[starting]} starting, ${count[training]} training, ${count[saving]} saving)," \
  "$same runs with the bits of the one that was never killed, $failed wrong"
((failed == 0))
