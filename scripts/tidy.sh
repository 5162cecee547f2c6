#!/usr/bin/env bash
# clang-tidy over our sources as build/release compiles them (configured when it is not yet);
# every finding is an error. JOBS=N: that many at a time.
#   scripts/tidy.sh [FILE.cpp ...]     (default: all)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tool=${CLANG_TIDY:-clang-tidy}
command -v "$tool" >/dev/null || fail "no $tool: scripts/install-deps.sh --dev adds it"
build=$root/build/release
[[ -f $build/compile_commands.json ]] || cmake -S "$root" --preset release >/dev/null
if (($# == 0)); then
  mapfile -t files < <(our_sources cpp)
else
  files=("$@")
fi

# A file that no target compiles has no command to check it by.
known=()
for file in "${files[@]}"; do
  grep -qF "\"file\": \"$(realpath "$file")\"" "$build/compile_commands.json" && known+=("$file")
done
((${#known[@]})) || fail "none of these files is compiled in $build"
printf '%s\0' "${known[@]}" |
  xargs -0 -n 1 -P "$jobs" "$tool" -p "$build" --quiet --warnings-as-errors='*' \
    --extra-arg=-Wno-unknown-warning-option \
    --header-filter="^$root/(core|kernels|parallel|launcher|bench|tests)/"
echo "clang-tidy: ${#known[@]} files, nothing found"
