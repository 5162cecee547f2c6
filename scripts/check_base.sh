#!/usr/bin/env bash
# The promise of recipes/base.yaml, for three seeds: within 2 minutes on 2 cores the held-out loss is
# at most 2% of (ln V - floor) above the entropy floor, reversal is answered to 0.95 and tracking
# ("where") to 0.6 or better, each over 2,000 held-out questions or more.
#   scripts/check_base.sh [SEED ...]     (default: 1 2 3)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
program=$root/build/release/bin/rwkv-dist
[[ -x $program ]] || fail "no $program: scripts/train.sh or scripts/test.sh builds it"
(($#)) || set -- 1 2 3
mapfile -t settings < <(mpi_settings)
runs=$(mktemp -d)
trap 'rm -rf "$runs"' EXIT

bad=0
for seed in "$@"; do
  log=$runs/$seed.log
  begin=$SECONDS
  if ! env "${settings[@]}" timeout -k 10 600 mpirun -q "$program" "$root/recipes/base.yaml" \
    run.seed="$seed" run.dir="$runs/$seed" log.every=500 >"$log" 2>&1; then
    cat "$log"
    fail "seed $seed: the run failed"
  fi
  # "... · 0.09% of (ln V - floor) above it", "where 0.8462 of 2403 questions (chance 0.25)"
  awk -v seed="$seed" -v seconds=$((SECONDS - begin)) '
    match($0, /[0-9.]+% of \(ln V - floor\) above it/) { above = substr($0, RSTART) + 0 }
    match($0, /(reverse|where) [0-9.]+ of [0-9]+ questions/) {
      split(substr($0, RSTART), w, " "); share[w[1]] = w[2]; asked[w[1]] = w[4]
    }
    END {
      printf "seed %s: %d s, %.2f%% above the floor, reverse %.4f of %d, where %.4f of %d\n",
        seed, seconds, above, share["reverse"], asked["reverse"], share["where"], asked["where"]
      good = above != "" && above <= 2 && share["reverse"] >= 0.95 && share["where"] >= 0.6 &&
        asked["reverse"] >= 2000 && asked["where"] >= 2000 && seconds <= 120
      exit !good
    }' "$log" || { echo "seed $seed: OUTSIDE the limits"; bad=1; }
done
exit "$bad"
