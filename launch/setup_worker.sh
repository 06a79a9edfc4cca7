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
