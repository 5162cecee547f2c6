#!/usr/bin/env bash
# Stop after a random step on n ranks and go on with m, in fp32 and bf16, with threads and the split of
# the optimizer's state drawn anew on each side: every row (but its times) and the final weights are
# those of one rank that never stopped. And: a resume under another recipe is refused by name with
# code 88 and touches nothing, but keys that do not change the mathematics may change.
#   scripts/check_resume.sh    SEED=1 PRECISIONS="fp32 bf16" PAIRS="3:1 2:2": n:m, default all of 1 to 5
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
set_up_trial
RANDOM=${SEED:-1}
read -ra pairs <<<"${PAIRS:-$(echo {1..5}:{1..5})}"
read -ra precisions <<<"${PRECISIONS:-fp32 bf16}"
steps=9
# 5 sequences: uneven shares on 2, 3 and 4 ranks.
recipe=("$root/recipes/reverse.yaml" model.layers=2 model.width=32 model.head_size=16
  train.context=32 train.batch=5 "train.steps=$steps" eval.every=4 eval.batches=2)
failed=0 compared=0

wrong() {
  failed=$((failed + 1))
  echo "WRONG: $*"
}

# train CODE RANKS KEY=VALUE...: must end with this code; what it says is in $folder/said.
train() {
  local wanted=$1 ranks=$2 code=0
  shift 2
  timeout -k 10 120 mpirun -q --bind-to none -n "$ranks" "$program" "${recipe[@]}" "$@" \
    >"$folder/said" 2>&1 || code=$?
  if ((code == wanted)); then return 0; fi
  wrong "code $code instead of $wanted on $ranks ranks: $*"
  tail -n 5 "$folder/said"
  return 1
}

# A layout of its own for each start.
layout() {
  local threads=$((1 + RANDOM % 2)) shard=none
  ((RANDOM % 2)) || shard=optimizer
  drawn=("parallel.threads=$threads" "parallel.shard=$shard")
}

# pair PRECISION N M
pair() {
  local run=$folder/run stop=$((1 + RANDOM % (steps - 1))) first
  local keys=("precision=$1" "run.dir=$run")
  rm -rf "$run"
  compared=$((compared + 1))
  layout
  first=("${drawn[@]}")
  layout
  train 85 "$2" "${keys[@]}" "${first[@]}" "train.stop_at=$stop" || return 0
  train 0 "$3" "${keys[@]}" "${drawn[@]}" || return 0
  grep -q "step-$stop · step $stop\$" "$folder/said" || wrong "did not go on from step $stop"
  result_of "$program" "$run" >"$folder/got" || true
  if diff "$folder/want-$1" "$folder/got" >"$folder/differs"; then return 0; fi
  wrong "$1, $2 ranks to step $stop (${first[*]}), then $3 (${drawn[*]}): differs"
  head -n 4 "$folder/differs"
}

content_of() { (cd "$1" && find . -type f -exec cksum {} + | sort); }

refused() { # refused RUN KEY=VALUE
  compared=$((compared + 1))
  content_of "$1" >"$folder/before"
  train 88 2 "run.dir=$1" "$2" || return 0
  grep -q "${2%%=*} differs" "$folder/said" || wrong "$2: does not name the key"
  (($(wc -l <"$folder/said") == 1)) || wrong "$2: more than one line"
  content_of "$1" | cmp -s "$folder/before" - || wrong "$2: touched the run folder"
}

# What the checkpoint of $folder/stopped may and may not go on with; rows and weights of $1's whole run.
recipes_on_resume() {
  local precision=$1 setting
  train 85 3 "run.dir=$folder/stopped" "precision=$precision" train.stop_at=4 || return 0
  recipe+=("precision=$precision")
  for setting in model.layers=1 model.width=64 model.head_size=32 model.ffn_width=96 model.vocab=300 \
    data.source=skills data.sampler=sequential run.seed=2 train.batch=4 train.context=16 \
    loss.l2wrap=0 optimizer.lr=1e-3 optimizer.lr_final=1e-4 optimizer.schedule=linear \
    optimizer.warmup=3 'optimizer.betas=[0.9, 0.95]' optimizer.eps=1e-8 \
    optimizer.weight_decay=0.2 optimizer.clip=2; do
    refused "$folder/stopped" "$setting"
  done
  for setting in train.micro_batch=1 train.micro_batch=3 parallel.threads=1 parallel.threads=2 \
    parallel.shard=optimizer log.every=1 checkpoint.every=1 checkpoint.keep=1; do
    compared=$((compared + 1))
    rm -rf "$folder/run"
    cp -r "$folder/stopped" "$folder/run"
    train 0 2 "run.dir=$folder/run" "$setting" || continue
    result_of "$program" "$folder/run" >"$folder/got" || true
    cmp -s "$folder/want-$precision" "$folder/got" || wrong "$setting on resume: differs"
  done
}

for precision in "${precisions[@]}"; do
  train 0 1 "run.dir=$folder/whole-$precision" "precision=$precision"
  result_of "$program" "$folder/whole-$precision" >"$folder/want-$precision"
  for both in "${pairs[@]}"; do pair "$precision" "${both%:*}" "${both#*:}"; done
  echo "$precision: ${#pairs[@]} pairs of rank counts, $(tail -n 1 "$folder/want-$precision")"
done
recipes_on_resume "${precisions[0]}"
echo "$compared resumes compared, $failed wrong"
((failed == 0))
