#!/bin/bash
# Spark's preStop hook where spark.decommission.enabled is set (spark.kubernetes.decommission.script): SIGPWR tells the
# executor that its pod is being drained. The pod is kept until it has moved its blocks or its grace period is over.
executor=$(pgrep --full KubernetesExecutorBackend | tail --lines=1)
[ -n "$executor" ] || exit 0
kill -s PWR "$executor"
exec timeout 60 tail --pid="$executor" --follow /dev/null
