#!/usr/bin/env bash
# Made by `lvit launch`: lvit train --config=configs/pretrain/mae_tiny.py --workdir=gs://my-bucket/mae --distributed on v6e:4x4
# A managed job: SkyPilot finds a slice, and another one after a preemption; the command resumes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
task=$folder/task.yaml
cat >"$task" <<'LVIT_TASK'
# Made by `lvit launch`: lvit train --config=configs/pretrain/mae_tiny.py --workdir=gs://my-bucket/mae --distributed on v6e:4x4
name: lvit-v6e-4x4-spot
resources:
  infra: "gcp/us-east5/us-east5-b"
  accelerators: tpu-v6e-16
  accelerator_args:
    runtime_version: v2-alpha-tpuv6e
  use_spot: true
  job_recovery:
    max_restarts_on_errors: 100
    recover_on_exit_codes: [143] # told to stop, see run_worker.sh
envs:
  PACKAGE: "lvit_jax[tpu] @ git+https://example.org/lvit_jax"
  DATA_BUCKET: "my-images"
setup: |
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
run: |
  export PATH="$HOME/.lvit/bin:$PATH"
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
  bash -c "$RUN" run_worker lvit train --config=configs/pretrain/mae_tiny.py --workdir=gs://my-bucket/mae --distributed
LVIT_TASK
sky jobs launch --yes "$task"
