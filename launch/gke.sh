#!/usr/bin/env bash
# {{title}}
# Hands a JobSet to the Kubernetes cluster that kubectl speaks to. It starts all pods again when one fails or is
# preempted; the command resumes. The same script again starts the run anew, where its workdir left off.
set -euo pipefail

kubectl delete jobset {{name}} --ignore-not-found
kubectl apply -f - <<'LVIT_JOBSET'
{{manifest}}
LVIT_JOBSET
