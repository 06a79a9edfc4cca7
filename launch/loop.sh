# What a worker runs: the preparation, then the training under the watch of run_worker.sh.
prepare_worker="PACKAGE=$(printf %q {{package}}) DATA_BUCKET=$(printf %q {{data_bucket}}) bash -c $(printf %q "$SETUP")"
# shellcheck disable=SC2016  # the worker expands these
train='PATH="$HOME/.lvit/bin:$PATH" bash -c '"$(printf %q "$RUN") run_worker$(printf ' %q' "${TRAIN[@]}")"

attempt() {
  everywhere "$prepare_worker" || return 2
  everywhere "$train"
}

# Of an error message: whether it says that there is nothing, or that gcloud could not tell (no network, no rights).
absent_or_unknown() {
  if grep -qiE 'not[_ ]found' <<<"$1"; then
    echo ABSENT
  else
    echo "$1" >&2
    echo UNKNOWN
  fi
}

for ((start = 0; start <= {{restarts}}; )); do
  case "$(state)" in
    ABSENT) create ;;
    ACTIVE)
      code=0
      attempt || code=$?
      if [ "$code" -eq 0 ]; then
        delete
        exit 0
      fi
      echo "start $start ended with exit code $code" >&2
      sleep 60 # a preemption shows in the state a little later
      if [ "$code" -eq 2 ] && [ "$(state)" = ACTIVE ]; then
        echo "refused, or not installed (see above); $NAME is still there and costs money" >&2
        exit 2
      fi
      start=$((start + 1))
      ;;
    SUSPENDED | FAILED) delete ;;
    *) sleep 30 ;;
  esac
done
echo "given up after {{restarts}} restarts; $NAME is still there and costs money" >&2
exit 1
