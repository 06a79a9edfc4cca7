#!/usr/bin/env bash
# Made by `lvit launch`: lvit train --config=configs/pretrain/mae_tiny.py --workdir=gs://my-bucket/mae --distributed on v5e:4x4
# Asks for a TPU slice in the queue, prepares every worker, runs the same command on all of them, and gives the slice
# back at the end. After a preemption it asks again; the command resumes. Run it where it can stay (tmux, Cloud Shell);
# stopped and started again, it goes on with the slice that is there.
set -euo pipefail

NAME=lvit-v5e-4x4-spot
PROJECT=my-project
ZONE=us-west4-a
WHERE=(--project="$PROJECT" --zone="$ZONE")
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

state() {
  local answer
  if answer=$(gcloud compute tpus queued-resources describe "$NAME" "${WHERE[@]}" --format='value(state.state)' 2>&1); then
    echo "$answer"
  else
    absent_or_unknown "$answer"
  fi
}

create() {
  gcloud compute tpus queued-resources create "$NAME" "${WHERE[@]}" \
    --node-id="$NAME" \
    --accelerator-type=v5litepod-16 \
    --runtime-version=v2-alpha-tpuv5-lite \
    --spot
}

delete() {
  gcloud compute tpus queued-resources delete "$NAME" "${WHERE[@]}" --force --quiet
}

everywhere() {
  gcloud compute tpus tpu-vm ssh "$NAME" "${WHERE[@]}" --worker=all --quiet --command="$1"
}

# What a worker runs: the preparation, then the training under the watch of run_worker.sh.
prepare_worker="PACKAGE=$(printf %q 'lvit_jax[tpu] @ git+https://example.org/lvit_jax') DATA_BUCKET=$(printf %q '') bash -c $(printf %q "$SETUP")"
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
