#!/usr/bin/env bash
# Made by `lvit launch`: lvit train --config=configs/pretrain/mae_tiny.py --workdir=gs://my-bucket/mae --distributed on v5p:2x2x1
# Hands a JobSet to the Kubernetes cluster that kubectl speaks to. It starts all pods again when one fails or is
# preempted; the command resumes. Once it has ended, the same script starts the run anew, where its workdir left off.
set -euo pipefail

there=$(kubectl get jobset lvit-v5p-2x2x1 --ignore-not-found --output=name)
if [ -n "$there" ]; then
  ended=$(kubectl get "$there" --output='jsonpath={.status.terminalState}')
  if [ -z "$ended" ]; then
    echo "lvit-v5p-2x2x1 has not ended; this ends it: kubectl delete jobset lvit-v5p-2x2x1 --cascade=foreground" >&2
    exit 1
  fi
  kubectl delete "$there" --cascade=foreground # waits for its pods
fi
kubectl apply -f - <<'LVIT_JOBSET'
# Made by `lvit launch`: lvit train --config=configs/pretrain/mae_tiny.py --workdir=gs://my-bucket/mae --distributed on v5p:2x2x1
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: lvit-v5p-2x2x1
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool # one job, one slice
spec:
  failurePolicy:
    maxRestarts: 100
    rules:
      - name: refused # exit code 2: a mistake in the command or the config fails again every time
        action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: slice
      replicas: 1
      template:
        spec:
          parallelism: 1
          completions: 1
          completionMode: Indexed
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes:
                  containerName: train
                  operator: In
                  values: [2]
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: 120 # a preemption leaves 15 unless the node pool grants more
              serviceAccountName: "trainer"
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: tpu-v5p-slice
                cloud.google.com/gke-tpu-topology: 2x2x1
              containers:
                - name: train
                  image: "us-docker.pkg.dev/my-project/lvit/lvit:1"
                  command:
                    - bash
                    - -c
                    - |
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
                    - run_worker
                  args: ["lvit", "train", "--config=configs/pretrain/mae_tiny.py", "--workdir=gs://my-bucket/mae", "--distributed"]
                  ports:
                    - containerPort: 8471 # TPU runtime
                  resources:
                    requests:
                      google.com/tpu: 4
                    limits:
                      google.com/tpu: 4
                  volumeMounts:
                    - name: shm
                      mountPath: /dev/shm
              volumes:
                - name: shm
                  emptyDir:
                    medium: Memory
LVIT_JOBSET
