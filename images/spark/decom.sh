#!/bin/bash
# The preStop hook of executors if spark.decommission.enabled is set (spark.kubernetes.decommission.script). SIGPWR
# tells the executor that its pod is being drained. The hook returns when the executor has moved its blocks and ended,
# or after 60 s.
executor=$(pgrep --full KubernetesExecutorBackend | tail --lines=1)
[ -n "$executor" ] || exit 0
kill -s PWR "$executor"
exec timeout 60 tail --pid="$executor" --follow /dev/null
