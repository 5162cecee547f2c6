#!/usr/bin/env bash
# Puts the headers of CUTLASS, which products on GPUs of sm_90 are made with, into build/cutlass, from the
# Python package that NVIDIA publishes. Does nothing where there is no nvcc, when they are there, or when
# CUTLASS_HOME says where others are. The build does without them too.
#   scripts/install-cutlass.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
version=4.2.0.0
to=$root/build/cutlass

case ${1:-} in
  '') ;;
  -h | --help) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0 ;;
  *) fail "unknown option '$1'" ;;
esac
find_nvcc >/dev/null || exit 0
[[ -n ${CUTLASS_HOME:-} ]] && exit 0
[[ -f $to/$version ]] && exit 0
python3 -m pip --version >/dev/null 2>&1 || fail "no pip: apt-get install python3-pip, or set CUTLASS_HOME"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip --retries 0 --timeout 10 download -q --no-deps --dest "$work" "nvidia-cutlass==$version" ||
  fail "nvidia-cutlass $version could not be downloaded"
python3 -m zipfile -e "$work"/nvidia_cutlass-*.whl "$work/wheel"
mkdir -p "$root/build"
rm -rf "$to"
mkdir "$to"
mv "$work/wheel/cutlass_library/source/include" "$to/"
mv "$work"/wheel/nvidia_cutlass-*/licenses/LICENSE.txt "$to/"
touch "$to/$version"
echo "CUTLASS $version: $to"
