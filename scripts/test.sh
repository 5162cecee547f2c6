#!/usr/bin/env bash
# Builds and tests; the last line counts over everything that ran, and the code is 0 when nothing
# failed.
#   scripts/test.sh           quick: release build and its tests, registers of the CUDA kernels where
#                             nvcc is, the parsers and the kernels under address and
#                             undefined-behaviour sanitizers, ranks that are threads and emulated
#                             CUDA kernels under the thread sanitizer
#   scripts/test.sh --full    all tests under the address sanitizer, layout of the sources, clang-tidy,
#                             and the long checks scripts/check_*.sh too
# A failed build, and each check that is not a ctest, counts as one. JOBS=N: N at a time. UNITY=ON: the
# sources of each library are compiled as one, which is quicker where all has to be built.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

full=false
case ${1:-} in
  '') ;;
  --full) full=true ;;
  -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
  *) fail "unknown option '$1' (allowed: --full)" ;;
esac

passed=0 failed=0 skipped=0
results=$(mktemp -d)

summary() {
  local code=$?
  rm -rf "$results"
  # Stopped half-way: what was running has failed.
  ((code == 0)) || ((failed)) || failed=1
  echo
  echo "$passed passed, $failed failed, $skipped skipped"
  ((failed == 0)) || exit 1
}
trap summary EXIT
trap 'echo "stopped by a signal" >&2; failed=$((failed + 1)); exit 1' TERM INT

# step NAME COMMAND...: one check, passed or failed.
step() {
  local name=$1 seconds=$SECONDS
  shift
  echo "== $name"
  if "$@"; then
    passed=$((passed + 1))
    echo "== $name: passed ($((SECONDS - seconds)) s)"
  else
    failed=$((failed + 1))
    echo "== $name: FAILED ($((SECONDS - seconds)) s)"
  fi
}

# build PRESET [TARGET...]: all targets when none is named.
build() {
  local preset=$1 seconds=$SECONDS targets=()
  shift
  if (($#)); then targets=(--target "$@"); fi
  echo "== build $preset"
  if cmake -S "$root" --preset "$preset" "-DCMAKE_UNITY_BUILD=${UNITY:-OFF}" -DCMAKE_UNITY_BUILD_BATCH_SIZE=0 &&
    cmake --build "$root/build/$preset" --parallel "$jobs" "${targets[@]}"; then
    echo "== build $preset: done ($((SECONDS - seconds)) s)"
  else
    failed=$((failed + 1))
    echo "== build $preset: FAILED"
    return 1
  fi
}

# run_tests PRESET CTEST_OPTION...
run_tests() {
  local preset=$1 code=0 counts
  shift
  echo "== test $preset"
  "${launch[@]}" ctest --test-dir "$root/build/$preset" --output-on-failure --no-tests=error \
    --parallel "$jobs" --output-junit "$results/$preset.xml" "$@" || code=$?
  read -r -a counts <<<"$(count_junit "$results/$preset.xml")"
  # No file, or no test in it: then ctest's code is all there is to go by.
  if ((${#counts[@]} != 3)) || ((code != 0 && counts[1] == 0)); then
    counts=("${counts[0]:-0}" 1 "${counts[2]:-0}")
  fi
  passed=$((passed + counts[0]))
  failed=$((failed + counts[1]))
  skipped=$((skipped + counts[2]))
}

# The test programs of the folders that have tests: core/base -> test_core_base.
programs_of() {
  local folder
  for folder in "$@"; do
    if compgen -G "$root/tests/$folder/*_test.cpp" >/dev/null; then
      echo "test_${folder//\//_}"
    fi
  done
}

# What takes a sanitizer minutes and shows it no line that other tests do not.
repeats='Generators.(Chance|Decisions)|HaveTheBitsOfTheWhole|LengthsAroundChunks|LongSequences|NoStartLeaves|MapsOfOneTile|TheMapEnds|emulator_fibers_f16'

# sanitized PRESET FOLDER...: builds and runs the tests of these folders.
sanitized() {
  local preset=$1 programs names
  shift
  mapfile -t programs < <(programs_of "$@")
  if ((${#programs[@]} == 0)); then return; fi
  names=$(IFS='|'; echo "${programs[*]#test_}")
  if build "$preset" "${programs[@]}"; then
    run_tests "$preset" -R "^($names)\\." -E "$repeats" -LE 'mpi|gpu'
  fi
}

# Races: of ranks that are threads, and of the CUDA kernels, whose threads the emulator shows to the
# sanitizer one by one.
races() {
  local programs
  mapfile -t programs < <(programs_of parallel kernels)
  if build tsan "${programs[@]}"; then
    OMP_NUM_THREADS=1 run_tests tsan -LE 'mpi|gpu' \
      -E "$repeats" \
      -R '^(parallel\.|kernels\.(Wkv7Teams|.*emulator_fibers(_bf16| )))'
  fi
}

"$root/scripts/install-deps.sh" --dev
mapfile -t settings < <(mpi_settings)
export "${settings[@]}"
export ASAN_OPTIONS=fast_unwind_on_malloc=0:detect_stack_use_after_return=1
export LSAN_OPTIONS=suppressions=$root/tests/support/lsan.supp:print_suppressions=0
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
# The thread sanitizer's fixed address ranges collide with wide address-space randomisation.
launch=()
if setarch "$(uname -m)" -R true 2>/dev/null; then launch=(setarch "$(uname -m)" -R); fi

nvcc=$(find_nvcc || true)
"$root/scripts/install-cutlass.sh" || echo "test.sh: going on without CUTLASS" >&2

if $full; then
  if build release; then run_tests release; fi
  if build asan; then run_tests asan -LE gpu; fi
  races
  if [[ -n $nvcc ]]; then step "registers of the CUDA kernels" "$root/scripts/kernel_table.sh" --check; fi
  step "layout of the sources" "$root/scripts/format.sh" --check
  step "clang-tidy" "$root/scripts/tidy.sh"
  for check in "$root"/scripts/check_*.sh; do
    if [[ -x $check ]]; then step "${check##*/}" "$check"; fi
  done
else
  if build release; then run_tests release; fi
  if [[ -n $nvcc ]]; then step "registers of the CUDA kernels" "$root/scripts/kernel_table.sh" --check; fi
  sanitized asan core/base core/config core/plan core/data core/io kernels
  races
fi
