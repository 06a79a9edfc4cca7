#!/usr/bin/env bash
# Runs a command. Where it was told to stop (SIGTERM: a preemption), the exit code says so (143) even if the command
# saved and left with 0: a preempted run is not a finished one, and only what has failed is started again.
child=
told=
# shellcheck disable=SC2329  # the trap calls it
stop() {
  told=yes
  if [ -n "$child" ]; then kill -TERM "$child" 2>/dev/null; fi
}
trap stop TERM
"$@" &
child=$!
if [ -n "$told" ]; then kill -TERM "$child"; fi
while true; do
  wait "$child"
  code=$?
  kill -0 "$child" 2>/dev/null || break # `wait` also returns when a signal comes in
done
if [ -n "$told" ] && [ "$code" -eq 0 ]; then code=143; fi
exit "$code"
