#!/usr/bin/env bash
# {{title}}
# Asks for a TPU slice in the queue, prepares every worker, runs the same command on all of them, and gives the slice
# back at the end. After a preemption it asks again; the command resumes. Run it where it can stay (tmux, Cloud Shell);
# stopped and started again, it goes on with the slice that is there.
set -euo pipefail

NAME={{name}}
PROJECT={{project}}
ZONE={{zone}}
HOSTS={{hosts}}
WHERE=(--project="$PROJECT" --zone="$ZONE")
DELETE=(gcloud compute tpus queued-resources delete "$NAME" "${WHERE[@]}" --force --quiet)
TRAIN=({{train}})

SETUP=$(
  cat <<'LVIT_SETUP'
{{setup}}
LVIT_SETUP
)
RUN=$(
  cat <<'LVIT_RUN'
{{run}}
LVIT_RUN
)

state() {
  local answer
  if answer=$(gcloud compute tpus queued-resources describe "$NAME" "${WHERE[@]}" --format='value(state.state)' 2>&1); then
    grep -xE '[A-Z_]+' <<<"$answer" # and not what gcloud advises beside it
  else
    absent_or_unknown "$answer"
  fi
}

create() {
  gcloud compute tpus queued-resources create "$NAME" "${WHERE[@]}" \
    --node-id="$NAME" \
    --accelerator-type={{accelerator_type}} \
    --runtime-version={{runtime_version}}{{spot}}
}

delete() {
  "${DELETE[@]}"
}

workers() {
  seq 0 $((HOSTS - 1))
}

on_worker() {
  gcloud compute tpus tpu-vm ssh "$NAME" "${WHERE[@]}" --worker="$1" --quiet --command="$2"
}

{{loop}}
