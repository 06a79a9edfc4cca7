#!/usr/bin/env bash
# {{title}}
# A managed job: SkyPilot finds a slice, and another one after a preemption; the command resumes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
task=$folder/task.yaml
cat >"$task" <<'LVIT_TASK'
{{task}}
LVIT_TASK
sky jobs launch --yes "$task"
