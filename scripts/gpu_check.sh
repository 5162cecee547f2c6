#!/usr/bin/env bash
# Everything that can be checked on a machine with a GPU, in one command; what it found goes to a report
# file. What is not measured yet: docs/measurements/gpu_todo.md.
#   scripts/gpu_check.sh [REPORT]        default: gpu-report.txt
# PART=checks or PART=bench: that part alone.
# PREBUILT=1: nothing is installed or built; build/release is used as it is.
# OFFICIAL=FOLDER: a checkout of RWKV-LM's RWKV-v7/train_temp, measured beside ours (needs PyTorch); build its
# extensions first: bench/official_step.py FOLDER --head_chunk 0 --build.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
report=$(realpath -m "${1:-gpu-report.txt}")
part=${PART:-all}
[[ $part == all || $part == checks || $part == bench ]] || fail "PART=$part (allowed: checks, bench)"
if [[ -z ${PREBUILT:-} ]]; then
  "$root/scripts/install-deps.sh" --dev
  "$root/scripts/install-cutlass.sh" || echo "going on without it"
  cmake -S "$root" --preset release -DRWKV_BENCH=ON
  cmake --build "$root/build/release" --parallel "$jobs"
fi
set_up_trial
build=$root/build/release
bench=$build/bench
failed=0

# check NAME COMMAND...: one line says how it ended.
check() {
  local name=$1
  shift
  echo "== $name"
  if "$@"; then echo "== $name: passed"; else
    failed=$((failed + 1))
    echo "== $name: FAILED"
  fi
}

# Two ranks over NCCL, of which one is stopped.
stops_with_86() {
  local job code=0
  mpirun -q --bind-to none -n 2 "$program" "$root/recipes/base.yaml" parallel.device=cuda parallel.share_gpu=true \
    parallel.timeout=5 run.dir="$folder/hang" >/dev/null &
  job=$!
  until [[ -s $folder/hang/metrics.jsonl ]] || ! kill -0 $job 2>/dev/null; do sleep 0.1; done
  sleep 2
  kill -STOP "$(pgrep -P $job rwkv-dist | tail -1)"
  wait $job || code=$?
  ((code == 86))
}

checks() {
  check "ops" "$build/tests/test_kernels" --gtest_brief=1 '--gtest_filter=*cuda_sm*:Gpu*'
  check "golden models, trajectory" "$build/tests/test_core_model" --gtest_brief=1 '--gtest_filter=*gpu*:*Gpu*'
  check "trajectory through the program" "$build/tests/test_launcher" --gtest_brief=1 '--gtest_filter=*OnTheGpu*'
  check "two ranks on one GPU, NCCL beside the hosts" \
    mpirun -q --bind-to none -n 2 "$build/tests/nccl_conformance" --share-gpu
  for link in nccl host; do
    check "a sequence over two ranks, $link" mpirun -q --bind-to none -n 2 "$program" \
      "$root/recipes/base.yaml" parallel.device=cuda parallel.share_gpu=true parallel.link=$link \
      parallel.sequence=2 parallel.data=1 train.steps=12 run.dir="$folder/$link"
  done
  check "the same losses over both" diff <(result_of "$program" "$folder/nccl") <(result_of "$program" "$folder/host")
  check "a training run" "$program" "$root/recipes/base.yaml" parallel.device=cuda run.dir="$folder/base"
  local base=("$program" "$root/recipes/base.yaml" parallel.device=cuda train.steps=12)
  # Runs that are compared begin with one checkpoint: it holds the algorithms of products, which are chosen by time.
  check "first steps" test "$("${base[@]}" train.stop_at=2 run.dir="$folder/first" >/dev/null; echo $?)" = 85
  local same=("${base[@]}" run.resume="$folder/first")
  check "without graphs" "${same[@]}" parallel.graphs=off run.dir="$folder/plain"
  check "with graphs" "${same[@]}" parallel.graphs=on run.dir="$folder/graphs"
  check "graphs keep the bits" diff <(result_of "$program" "$folder/plain") <(result_of "$program" "$folder/graphs")
  check "stopped" test "$("${same[@]}" train.stop_at=5 run.dir="$folder/resumed" >/dev/null; echo $?)" = 85
  check "gone on with" "${same[@]}" run.dir="$folder/resumed"
  check "a resume keeps the bits, its products' algorithms the checkpoint's" \
    diff <(result_of "$program" "$folder/plain") <(result_of "$program" "$folder/resumed")
  check "exact" "${base[@]}" parallel.reduction=exact run.dir="$folder/exact"
  check "exact, a sequence over two ranks" mpirun -q --bind-to none -n 2 "${base[@]}" \
    parallel.reduction=exact parallel.share_gpu=true parallel.sequence=2 parallel.data=1 run.dir="$folder/exact2"
  check "exact has the same bits on one rank and on two" \
    diff <(result_of "$program" "$folder/exact") <(result_of "$program" "$folder/exact2")
  local cut=("${base[@]}" parallel.reduction=exact parallel.leaf=32 train.chunk=32)
  check "segments, their stash on the GPU" "${cut[@]}" run.dir="$folder/stash"
  check "segments, their stash on the host" "${cut[@]}" train.stash=host run.dir="$folder/stash_host"
  check "the same bits" diff <(result_of "$program" "$folder/stash") <(result_of "$program" "$folder/stash_host")
  check "a rank that stops ends the job with 86" stops_with_86
  check "fp16" "${base[@]}" precision=fp16 run.dir="$folder/fp16"
  if command -v compute-sanitizer >/dev/null; then
    check "memcheck" compute-sanitizer --error-exitcode 1 --tool memcheck "$build/tests/test_kernels" \
      --gtest_brief=1 '--gtest_filter=*cuda_sm*'
    check "racecheck" compute-sanitizer --error-exitcode 1 --tool racecheck "$build/tests/test_kernels" \
      --gtest_brief=1 '--gtest_filter=*Chunk*cuda_sm*'
  fi
}

# steps LAYERS WIDTH BATCH:RECOMPUTE...: training steps in the first of these settings that the device has room for,
# and of the official model with as many tokens. 4096 tokens a sequence; the first settings' heads fill an H100 or
# H200, of which a multiprocessor takes two heads at a time in the recurrence.
steps() {
  local layers=$1 width=$2 setting bandwidth=3350
  shift 2
  if nvidia-smi --query-gpu=name --format=csv,noheader | grep -q H200; then bandwidth=4800; fi
  for setting in "$@"; do
    echo "-- $layers x $width, ${setting%:*} sequences, recompute ${setting#*:}"
    "$bench/train_step" layers="$layers" width="$width" batch="${setting%:*}" recompute="${setting#*:}" \
      bandwidth=$bandwidth || continue
    [[ -n ${OFFICIAL:-} ]] || return 0
    python3 "$root/bench/official_step.py" "$OFFICIAL" --head_chunk 0 --layers "$layers" --width "$width" \
      --batch "${setting%:*}" || echo "the official model did not run"
    return 0
  done
  return 1
}

benchmarks() {
  check "products, norms and the recurrence" "$bench/gpu_ops" cuda
  check "products by measured algorithms" "$bench/gpu_ops" cuda measured
  check "steps of 12 x 768" steps 12 768 22:none 16:none 16:norms 4:norms
  check "steps of 24 x 1024" steps 24 1024 16:none 8:none 8:norms 4:norms
  check "steps of 24 x 2048" steps 24 2048 8:none 4:none 4:norms 2:norms
  check "steps of 32 x 2560" steps 32 2560 4:none 2:none 1:none 1:norms
  if [[ -n ${OFFICIAL:-} ]]; then
    check "losses beside the official model's" python3 "$root/bench/official_losses.py" "$OFFICIAL" "$program"
    timeout 300 python3 "$root/bench/peer_recurrence.py" "$OFFICIAL" || echo "no peer of the recurrence ran"
  fi
}

{
  date -u +%F
  git -C "$root" rev-parse HEAD 2>/dev/null || echo "no repository here"
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || echo "no nvidia-smi"
  "$program" doctor
  if [[ $part != bench ]]; then checks; fi
  if [[ $part != checks ]]; then benchmarks; fi
  echo "$failed failed"
} 2>&1 | tee "$report"
if ! grep -q 'training runs there' "$report"; then fail "no GPU was found (see $report)"; fi
grep -qx '0 failed' "$report"
