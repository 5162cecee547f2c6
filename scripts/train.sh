#!/usr/bin/env bash
# Installs what is missing, builds, and trains.
#   scripts/train.sh [-n RANKS] [RECIPE.yaml [key=value ...]]     (default: recipes/base.yaml)
# Without -n, mpirun starts one rank a core. JOBS=N limits the build. Ends with the program's code.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

ranks=()
case ${1:-} in
  -h | --help) sed -n '2,4s/^# \{0,1\}//p' "$0"; exit 0 ;;
  -n)
    [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || fail "-n needs a number of ranks, from 1"
    ranks=(-n "$2")
    shift 2
    ;;
esac
if (($# == 0)); then
  set -- "$root/recipes/base.yaml"
elif [[ $1 == *=* ]]; then
  set -- "$root/recipes/base.yaml" "$@"
fi

"$root/scripts/install-deps.sh" ||
  echo "train.sh: going on; the configuration names what is missing" >&2
build=$root/build/release
log=$build/build.log
mkdir -p "$build"
echo "building (log: $log)"
# The libraries for GPUs take minutes: they are built where there is one, and nvcc.
build_all() {
  if nvidia-smi -L; then "$root/scripts/install-cutlass.sh" || echo "going on without it"; fi
  cmake -S "$root" --preset release || return
  local targets=(rwkv-dist) library
  if nvidia-smi -L; then
    for library in rwkv_cuda rwkv_nccl; do
      if grep -q "lib/lib$library.so" "$build/build.ninja"; then targets+=("$library"); fi
    done
  fi
  cmake --build "$build" --parallel "$jobs" --target "${targets[@]}"
}
if ! build_all >"$log" 2>&1; then
  tail -n 30 "$log" >&2
  fail "the build failed; the whole log: $log"
fi

mapfile -t settings < <(mpi_settings)
command=(mpirun -q "${ranks[@]}" "$build/bin/rwkv-dist" "$@")
printf '%s' '$'
printf ' %q' "${settings[@]}" "${command[@]}"
printf '\n'
exec env "${settings[@]}" "${command[@]}"
