#!/usr/bin/env bash
# What ptxas says of every CUDA kernel: registers and spilled bytes, as a table. Needs no GPU. Taken from the build
# in build/release where that is for the same architecture and up to date; else nvcc compiles the kernels again.
#   scripts/kernel_table.sh [sm_90a]            prints it
#   scripts/kernel_table.sh --check [sm_90a]    fails when docs/cuda_kernels.md says something else, or a
#                                               kernel for heads of up to 64 spills
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
check=false
if [[ ${1:-} == --check ]]; then check=true; shift; fi
arch=${1:-sm_90a}
built=$root/build/release/ptxas.txt  # cmake/keep_ptxas.sh

said_by_ptxas() {
  local nvcc
  if grep -qs "for '$arch'" "$built" && [[ -z $(find "$root/kernels" -name '*.[hc]*' -newer "$built") ]]; then
    cat "$built"
    return
  fi
  nvcc=$(find_nvcc) || fail "no nvcc: set CUDA_HOME"
  "$nvcc" -std=c++20 --expt-relaxed-constexpr -arch="$arch" -O3 -I"$root" -I"$root/kernels/cuda/native" -Xptxas -v -cubin \
    -o /dev/null "$root/kernels/cuda/native/cuda_backend.cu" 2>&1
}

table() {
  echo '| kernel | registers | spilled bytes |'
  echo '|---|---|---|'
  said_by_ptxas |
    awk -v wanted="$arch" '
      /Compiling entry function/ { gsub(/\047/, ""); name = $(NF - 2); ours = $NF == wanted }
      /spill stores/ { spilled = $5 + $9 }
      /: Used/ && ours { print name, $5, spilled }' |
    c++filt | sed -E 's/^void rwkv::device::run<(.*)>\(.*\) ([0-9]+) ([0-9]+)$/\1 | \2 | \3/' |
    sed 's/rwkv::cuda:://g; s/rwkv:://g' | LC_ALL=C sort -u | sed 's/^/| `/; s/ | /` | /; s/$/ |/'
}

if ! $check; then
  table
  exit
fi
now=$(mktemp)
trap 'rm -f "$now"' EXIT
table >"$now"
if awk -F'|' '$4 + 0 > 0 && !/[ <]128> *`/' "$now" | grep .; then fail "these spill"; fi
diff <(grep '^|' "$root/docs/cuda_kernels.md") "$now" || fail "docs/cuda_kernels.md differs"
echo "as docs/cuda_kernels.md says; no spills up to a head of 64"
