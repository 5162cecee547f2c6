#!/usr/bin/env bash
# What ptxas says of every CUDA kernel: registers, bytes spilled, static shared memory, as a table.
#   scripts/kernel_table.sh [sm_90a]            prints it, from the last build's output
#   scripts/kernel_table.sh --check [sm_90a]    fails when docs/cuda_kernels.md says something else
# The build writes what ptxas says to build/release/ptxas.txt.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
check=false
if [[ ${1:-} == --check ]]; then check=true; shift; fi
arch=${1:-sm_90a}
report=${PTXAS:-$root/build/release/ptxas.txt}
[[ -s $report ]] || fail "no $report: build the target rwkv_cuda first"

table() {
  echo '| kernel | registers | spilled bytes |'
  echo '|---|---|---|'
  awk -v arch="$arch" '
    /Compiling entry function/ { gsub(/\047/, ""); here = $NF == arch; name = $(NF - 2) }
    here && /spill stores/ { spilled = $5 + $9 }
    here && /: Used/ { print name, $5, spilled; here = 0 }' "$report" |
    c++filt | sed -E 's/^void rwkv::device::run<(.*)>\(.*\) ([0-9]+) ([0-9]+)$/\1 | \2 | \3/' |
    sed 's/rwkv::cuda:://g; s/rwkv:://g' | sort -u | sed 's/^/| `/; s/ | /` | /; s/$/ |/'
}

if $check; then
  diff <(table) <(grep '^|' "$root/docs/cuda_kernels.md") && echo "as docs/cuda_kernels.md says"
else
  table
fi
