#!/usr/bin/env bash
# {{title}}
# Hands a JobSet to the Kubernetes cluster that kubectl speaks to. It starts all pods again when one fails or is
# preempted; the command resumes. Once it has ended, the same script starts the run anew, where its workdir left off.
set -euo pipefail

there=$(kubectl get jobset {{name}} --ignore-not-found --output=name)
if [ -n "$there" ]; then
  ended=$(kubectl get "$there" --output='jsonpath={.status.terminalState}')
  if [ -z "$ended" ]; then
    echo "{{name}} has not ended; this ends it: kubectl delete jobset {{name}} --cascade=foreground" >&2
    exit 1
  fi
  kubectl delete "$there" --cascade=foreground # waits for its pods
fi
kubectl apply -f - <<'LVIT_JOBSET'
{{manifest}}
LVIT_JOBSET
