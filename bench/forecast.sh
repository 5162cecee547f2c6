#!/usr/bin/env bash
# What check's forecast says beside what is measured: one calibration on two ranks, then runs of one
# sequence on 1 to 8 ranks of this host.
#   bench/forecast.sh        RANKS="1 2 3 4 8" STEPS=6
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/lib.sh"
set_up_trial
cat >"$folder/recipe.yaml" <<END
model: {layers: ${LAYERS:-4}, width: ${WIDTH:-512}}
data: {source: reverse}
train: {context: ${CONTEXT:-8192}, batch: 1, steps: ${STEPS:-6}}
eval: {batches: 1}
parallel: {data: 1}
END
cd "$folder"
run() { mpirun -q --bind-to none -n "$1" "$program" "${@:2}"; }
run 2 check recipe.yaml parallel.sequence=2 --calibrate cal.json
printf '%5s %-8s %12s %12s %8s\n' ranks exchange "forecast s" "measured s" ratio
for exchange in gather ring; do
  for ranks in ${RANKS:-1 2 3 4 8}; do
    keys=("parallel.sequence=$ranks" "parallel.exchange=$exchange")
    forecast=$("$program" check recipe.yaml "${keys[@]}" --ranks "$ranks" --calibration cal.json |
      awk '$1 == "forecast" { print $2 }')
    run "$ranks" recipe.yaml run.dir=r run.resume=never "${keys[@]}" >/dev/null
    # The first step runs twice; the shortest of the others was disturbed least.
    measured=$(sed -n 's/.*"seconds":\([0-9.e-]*\).*/\1/p' r/metrics.jsonl | sed 1d | sort -g | head -n 1)
    awk -v r="$ranks" -v e="$exchange" -v f="$forecast" -v m="$measured" \
      'BEGIN { printf "%5d %-8s %12.3f %12.3f %8.2f\n", r, e, f, m, f / m }'
  done
done
