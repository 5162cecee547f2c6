#!/usr/bin/env bash
# Lays out all our sources by .clang-format; with --check only says which ones differ (and fails).
# CLANG_FORMAT names another clang-format.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tool=${CLANG_FORMAT:-clang-format}
command -v "$tool" >/dev/null || fail "no $tool: scripts/install-deps.sh --dev adds it"
mapfile -t files < <(our_sources h cpp cu cuh)
case ${1:-} in
  '') "$tool" -i "${files[@]}" ;;
  --check)
    differing=()
    for file in "${files[@]}"; do
      "$tool" --dry-run -Werror "$file" 2>/dev/null || differing+=("${file#"$root/"}")
    done
    if ((${#differing[@]})); then
      printf 'not laid out by .clang-format: %s\n' "${differing[@]}" >&2
      fail "${#differing[@]} of ${#files[@]} files differ; without --check it lays them out"
    fi
    ;;
  *) fail "unknown option '$1' (allowed: --check)" ;;
esac
