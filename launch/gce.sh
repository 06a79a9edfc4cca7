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
WHERE=(--project="$PROJECT" --zone="$ZONE")
DELETE=(gcloud compute instance-groups managed delete "$NAME" "${WHERE[@]}" --quiet)
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
      --machine-type={{machine_type}} \
      --image-family={{image_family}} \
      --image-project=ubuntu-os-accelerator-images \
      --boot-disk-size=200GB \
      --maintenance-policy=TERMINATE \
      --scopes=cloud-platform{{spot}}
}

# Several hosts are wired up by a policy.
make_policy() {
  [ "$HOSTS" -eq 1 ] ||
    gcloud compute resource-policies describe "$NAME" --project="$PROJECT" --region="$REGION" >/dev/null 2>&1 ||
    gcloud compute resource-policies create workload-policy "$NAME" --project="$PROJECT" --region="$REGION" \
      --type=HIGH_THROUGHPUT \
      --accelerator-topology={{topology}}
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

{{loop}}
