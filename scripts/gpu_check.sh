#!/usr/bin/env bash
# Everything that can be checked on a machine with a GPU, in one command; what it found goes to a report
# file. What is not built yet is listed as such (docs/measurements/gpu_todo.md).
#   scripts/gpu_check.sh [REPORT]        default: gpu-report.txt
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
report=${1:-gpu-report.txt}
set_up_trial
{
  date -u +%F
  git -C "$root" rev-parse HEAD 2>/dev/null || echo "no repository here"
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || echo "no nvidia-smi"
  "$program" doctor
  echo "ops on the device, models on the device, NCCL, benchmarks: not built yet"
} 2>&1 | tee "$report"
if ! grep -q 'training runs there' "$report"; then fail "no GPU was found (see $report)"; fi
