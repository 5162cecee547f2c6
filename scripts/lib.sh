# Sourced by the other scripts: where the project lies, and what MPI needs to start here.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034  # used by those who source this
jobs=${JOBS:-$(nproc)}

fail() {
  echo "${0##*/}: $*" >&2
  exit 1
}

# Prints where nvcc is, which is often not on PATH; fails where there is none.
find_nvcc() {
  command -v nvcc || compgen -G "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc"
}

under_scheduler() {
  [[ -n ${SLURM_JOB_ID:-} || -n ${PBS_JOBID:-} || -n ${LSB_JOBID:-} || -n ${PE_HOSTFILE:-} ]]
}

# The NAME=VALUE settings for mpirun, one a line. Values that the caller has set are kept.
# Open MPI 4 reads OMPI_*, Open MPI 5 reads PRTE_* for what its launcher decides.
mpi_settings() {
  local settings=(
    OMPI_MCA_rmaps_base_oversubscribe=1
    PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
    OMP_WAIT_POLICY=passive
  )
  if [[ $(id -u) == 0 ]]; then
    settings+=(OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
      PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1)
  fi
  # One host needs no network, and without the search for one a start takes a third of the time.
  if ! under_scheduler; then
    settings+=(OMPI_MCA_pml=ob1 'OMPI_MCA_btl=self,vader')
  fi
  local setting name
  for setting in "${settings[@]}"; do
    name=${setting%%=*}
    echo "$name=${!name:-${setting#*=}}"
  done
}

# For the scripts that try the built program under mpirun: sets `program` (or $PROGRAM), `folder`
# (goes at the end) and the environment of mpirun.
set_up_trial() {
  program=${PROGRAM:-$root/build/release/bin/rwkv-dist}
  [[ -x $program ]] || fail "no $program: scripts/train.sh or scripts/test.sh builds it"
  local -a settings
  mapfile -t settings < <(mpi_settings)
  export "${settings[@]}"
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
}

# result_of PROGRAM RUN: what must not depend on ranks, kills and resumes: every row of the metrics but
# its times and the bytes sent, and the hash of the newest checkpoint's weights.
result_of() {
  sed 1d "$2/metrics.jsonl" | sed -E 's/"seconds":[^,]*,"tokens_per_s":[^,}]*//; s/,"exchanged":[0-9]*//'
  "$1" verify "$2" | sed -n 's/.*weights/weights/p' | tail -n 1
}

# Our own sources, one a line, from the endings given (h cpp cu ...).
our_sources() {
  local folder ending
  for folder in core kernels parallel launcher bench tests; do
    [[ -d $root/$folder ]] || continue
    for ending in "$@"; do
      find "$root/$folder" -name "*.$ending" -type f
    done
  done | sort
}

# Reads a JUnit file of ctest and prints "PASSED FAILED SKIPPED". Skipped is what skipped itself or
# is disabled; a test that could not be started (ctest says "notrun" to both) is a failed one.
count_junit() {
  awk '
    /^\t<testcase / { status = $0; sub(/.* status="/, "", status); sub(/".*/, "", status)
                      if (status == "run") passed++
                      else if (status == "disabled") skipped++
                      else failed++
                      notrun = (status == "notrun") }
    notrun && /^\t\t<skipped message="SKIP_/ { failed--; skipped++; notrun = 0 }
    END { print passed + 0, failed + 0, skipped + 0 }' "$1"
}
