#!/bin/sh
# keep_ptxas.sh FILE COMMAND...: runs the compiler, and leaves what ptxas -v says in FILE for
# scripts/kernel_table.sh; the rest of its messages are shown.
kept=$1
shift
messages=$("$@" 2>&1)
code=$?
printf '%s\n' "$messages" | grep -E "^ptxas info|bytes (stack frame|spill)" >"$kept"
printf '%s\n' "$messages" | grep -vE "^ptxas info|bytes (stack frame|spill)|^$" >&2
exit $code
