#!/usr/bin/env bash
# Made by `lvit launch`: lvit train --config=configs/pretrain/mae_tiny.py --workdir=gs://my-bucket/mae --distributed on v6e:4x4
# Makes a TPU slice as a managed instance group, prepares every worker, runs the same command on all of them, and
# deletes the group at the end. After a preemption it makes the group anew; the command resumes. Run it where it can
# stay (tmux, Cloud Shell); stopped and started again, it goes on with the group that is there.
set -euo pipefail

NAME=lvit-v6e-4x4-spot
PROJECT=my-project
ZONE=us-east5-a
REGION=${ZONE%-*}
HOSTS=4
WHERE=(--project="$PROJECT" --zone="$ZONE")
DELETE=(gcloud compute instance-groups managed delete "$NAME" "${WHERE[@]}" --quiet)
TRAIN=(
  lvit
  train
  --config=configs/pretrain/mae_tiny.py
  --workdir=gs://my-bucket/mae
  --distributed
)

SETUP=$(
  cat <<'LVIT_SETUP'
#!/usr/bin/env bash
# Makes a TPU VM ready to run lvit: Python 3.12 in ~/.lvit (Ubuntu 22.04 has 3.10), the package, the data in /data.
# Again on a machine that is ready, it changes nothing.
#
#   PACKAGE='lvit_jax[tpu] @ git+https://...' DATA_BUCKET=my-images bash setup_worker.sh
set -euo pipefail
: "${PACKAGE:?what pip installs}"

install_package() {
  if [ "$(cat "$HOME/.lvit/package" 2>/dev/null)" = "$PACKAGE" ]; then return; fi
  PATH="$HOME/.local/bin:$PATH" # where uv installs itself
  command -v uv >/dev/null || curl -fsSL https://astral.sh/uv/install.sh | sh
  uv venv --quiet --clear --seed --python 3.12 "$HOME/.lvit"
  uv pip install --quiet --python "$HOME/.lvit/bin/python" "$PACKAGE"
  printf '%s\n' "$PACKAGE" >"$HOME/.lvit/package"
}

install_gcsfuse() {
  if command -v gcsfuse >/dev/null; then return; fi
  local key=/usr/share/keyrings/cloud.google.asc site=https://packages.cloud.google.com/apt
  curl -fsSL "$site/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] $site gcsfuse-$(lsb_release -cs) main" | sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo apt-get -qq update
  sudo apt-get -qq install -y gcsfuse
}

mount_data() {
  if [ -z "${DATA_BUCKET:-}" ] || mountpoint -q /data; then return; fi
  install_gcsfuse
  sudo mkdir -p /data
  sudo chown "$USER" /data
  gcsfuse --implicit-dirs -o ro "$DATA_BUCKET" /data
}

install_package
mount_data
LVIT_SETUP
)
RUN=$(
  cat <<'LVIT_RUN'
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
LVIT_RUN
)

# One line for each instance: its name and its status.
instances() {
  gcloud compute instance-groups managed list-instances "$NAME" "${WHERE[@]}" \
    --format='value(instance.basename(),instanceStatus)'
}

state() {
  local all
  if ! all=$(instances 2>&1); then
    absent_or_unknown "$all"
  elif grep -qE 'STOPPING|STOPPED|TERMINATED|SUSPEND' <<<"$all"; then
    echo SUSPENDED # a slice that lost a host is of no use
  elif [ "$(grep -c RUNNING <<<"$all")" -eq "$HOSTS" ]; then
    echo ACTIVE
  else
    echo WAITING
  fi
}

make_template() {
  gcloud compute instance-templates describe "$NAME" --project="$PROJECT" >/dev/null 2>&1 ||
    gcloud compute instance-templates create "$NAME" --project="$PROJECT" \
      --machine-type=ct6e-standard-4t \
      --image-family=ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e \
      --image-project=ubuntu-os-accelerator-images \
      --boot-disk-size=200GB \
      --maintenance-policy=TERMINATE \
      --scopes=cloud-platform \
      --provisioning-model=SPOT \
      --instance-termination-action=STOP
}

# Several hosts are wired up by a policy.
make_policy() {
  [ "$HOSTS" -eq 1 ] ||
    gcloud compute resource-policies describe "$NAME" --project="$PROJECT" --region="$REGION" >/dev/null 2>&1 ||
    gcloud compute resource-policies create workload-policy "$NAME" --project="$PROJECT" --region="$REGION" \
      --type=HIGH_THROUGHPUT \
      --accelerator-topology=4x4
}

make_group() {
  local flags=(--template="$NAME" --size="$HOSTS")
  if [ "$HOSTS" -gt 1 ]; then flags+=(--workload-policy="projects/$PROJECT/regions/$REGION/resourcePolicies/$NAME"); fi
  gcloud compute instance-groups managed create "$NAME" "${WHERE[@]}" \
    --target-size-policy-mode=bulk \
    --default-action-on-vm-failure=do-nothing \
    "${flags[@]}"
}

create() {
  make_template && make_policy && make_group
}

delete() {
  "${DELETE[@]}"
}

workers() {
  instances | cut -f 1
}

on_worker() {
  gcloud compute ssh "$1" "${WHERE[@]}" --quiet --command="$2"
}

# What a worker runs: the preparation, then the training under the watch of run_worker.sh.
prepare_worker="PACKAGE=$(printf %q 'lvit_jax[tpu] @ git+https://example.org/lvit_jax') DATA_BUCKET=$(printf %q my-images) bash -c $(printf %q "$SETUP")"
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
for ((start = 0; start <= 100; )); do
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
echo "given up after 100 restarts" >&2
exit 1
