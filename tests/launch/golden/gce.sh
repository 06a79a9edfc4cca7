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
  gcloud compute instance-groups managed list-instances "$NAME" --project="$PROJECT" --zone="$ZONE" \
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

prepare() {
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
  [ "$HOSTS" -eq 1 ] || # several hosts are wired up by a policy
    gcloud compute resource-policies describe "$NAME" --project="$PROJECT" --region="$REGION" >/dev/null 2>&1 ||
    gcloud compute resource-policies create workload-policy "$NAME" --project="$PROJECT" --region="$REGION" \
      --type=HIGH_THROUGHPUT \
      --accelerator-topology=4x4
}

create() {
  prepare
  local policy=()
  if [ "$HOSTS" -gt 1 ]; then policy=(--workload-policy="projects/$PROJECT/regions/$REGION/resourcePolicies/$NAME"); fi
  gcloud compute instance-groups managed create "$NAME" --project="$PROJECT" --zone="$ZONE" \
    --template="$NAME" \
    --size="$HOSTS" \
    --target-size-policy-mode=bulk \
    --default-action-on-vm-failure=do-nothing \
    "${policy[@]}"
}

delete() {
  gcloud compute instance-groups managed delete "$NAME" --project="$PROJECT" --zone="$ZONE" --quiet
}

# Runs a command on every instance at once; fails with the code of one that failed.
everywhere() {
  local name code=0 pids=()
  while read -r name _; do
    (gcloud compute ssh "$name" --project="$PROJECT" --zone="$ZONE" --quiet --command="$1" </dev/null 2>&1 |
      sed -u "s/^/[$name] /") &
    pids+=($!)
  done < <(instances)
  for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
  return "$code"
}

# What a worker runs: the preparation, then the training under the watch of run_worker.sh.
prepare_worker="PACKAGE=$(printf %q 'lvit_jax[tpu] @ git+https://example.org/lvit_jax') DATA_BUCKET=$(printf %q my-images) bash -c $(printf %q "$SETUP")"
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

for ((start = 0; start <= 100; )); do
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
echo "given up after 100 restarts; $NAME is still there and costs money" >&2
exit 1
