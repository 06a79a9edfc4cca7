# What a worker runs: the preparation, then the training under the watch of run_worker.sh.
prepare_worker="PACKAGE=$(printf %q {{package}}) DATA_BUCKET=$(printf %q {{data_bucket}}) bash -c $(printf %q "$SETUP")"
# shellcheck disable=SC2016  # the worker expands these
train='PATH="$HOME/.lvit/bin:$PATH" bash -c '"$(printf %q "$RUN") run_worker$(printf ' %q' "${TRAIN[@]}")"

gone= # whether all that costs money is known to be deleted
# shellcheck disable=SC2329  # the trap calls it
say_what_is_left() {
  if [ -z "$gone" ]; then echo "$NAME may still be there and costs money; this deletes it: ${DELETE[*]}" >&2; fi
}
trap say_what_is_left EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Of an error message: whether it says that there is nothing, or that gcloud could not tell (no network, no rights).
absent_or_unknown() {
  if grep -qiE 'not[_ ]found' <<<"$1"; then
    echo ABSENT
  else
    echo "$1" >&2
    echo UNKNOWN
  fi
}

# Counts what could not be done, and waits; gives up after ten in a row.
in_a_row=0
trouble() {
  in_a_row=$((in_a_row + 1))
  echo "$1: trouble $in_a_row of 10 in a row (its cause is above)" >&2
  if [ "$in_a_row" -eq 10 ]; then exit 1; fi
  sleep 60
}

# Runs a command on every worker at once; fails with 2 if one says so, else with the code of one that failed.
everywhere() {
  local names name pid one code=0 pids=()
  names=$(workers) || return 1
  if [ "$(wc -w <<<"$names")" -ne "$HOSTS" ]; then return 1; fi
  for name in $names; do
    (on_worker "$name" "$1" </dev/null 2>&1 | sed -u "s/^/[$name] /") &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do
    one=0
    wait "$pid" || one=$?
    if [ "$one" -ne 0 ] && [ "$code" -ne 2 ]; then code=$one; fi
  done
  return "$code"
}

discard() {
  until delete || [ "$(state)" = ABSENT ]; do trouble "$NAME could not be deleted"; done
  gone=yes
}

# One start of the command, on workers that are ready for it.
attempt() {
  local code=0
  tried=yes
  everywhere "$train" || code=$?
  if [ "$code" -eq 0 ]; then
    discard
    exit 0
  fi
  echo "start $start ended with exit code $code" >&2
  start=$((start + 1))
  sleep 60 # a preemption shows in the state a little later
  if [ "$code" -eq 2 ] && [ "$(state)" = ACTIVE ]; then
    echo "refused (see above)" >&2
    exit 2
  fi
}

tried= # whether the command was started on the slice that is there: one that is lost before counts as a start
for ((start = 0; start <= {{restarts}}; )); do
  case "$(state)" in
    ABSENT)
      gone=
      tried=
      if create; then in_a_row=0; else trouble "$NAME could not be made"; fi
      ;;
    ACTIVE)
      if everywhere "$prepare_worker"; then
        in_a_row=0
        attempt
      else
        trouble "the workers could not be reached or prepared"
      fi
      ;;
    SUSPENDED | FAILED)
      if [ -z "$tried" ]; then start=$((start + 1)); fi
      discard
      sleep 60
      ;;
    UNKNOWN) trouble "the state of $NAME could not be told" ;;
    *)
      in_a_row=0
      sleep 30
      ;;
  esac
done
echo "given up after {{restarts}} restarts" >&2
exit 1
