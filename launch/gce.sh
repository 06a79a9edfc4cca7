#!/usr/bin/env bash
# {{title}}
# Makes a TPU slice as a managed instance group, prepares every worker, runs the same command on all of them, and
# deletes the group at the end. After a preemption it makes the group anew; the command resumes. Run it where it can
# stay (tmux, Cloud Shell); stopped and started again, it goes on with the group that is there.
set -euo pipefail

NAME={{name}}
PROJECT={{project}}
ZONE={{zone}}
REGION=${ZONE%-*}
HOSTS={{hosts}}
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
      --machine-type={{machine_type}} \
      --image-family={{image_family}} \
      --image-project=ubuntu-os-accelerator-images \
      --boot-disk-size=200GB \
      --maintenance-policy=TERMINATE \
      --scopes=cloud-platform{{spot}}
  [ "$HOSTS" -eq 1 ] || # several hosts are wired up by a policy
    gcloud compute resource-policies describe "$NAME" --project="$PROJECT" --region="$REGION" >/dev/null 2>&1 ||
    gcloud compute resource-policies create workload-policy "$NAME" --project="$PROJECT" --region="$REGION" \
      --type=HIGH_THROUGHPUT \
      --accelerator-topology={{topology}}
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

{{loop}}
