#!/bin/bash
# The entry point that Spark on Kubernetes requires of an image: `driver ARG...`, `executor`, or any other command,
# which is run unchanged. The PyPI package pyspark contains no such script. The interface is the arguments and SPARK_*
# variables that Spark 4.2 sets on its pods.
set -eu

# Hadoop refuses a user without a name, and a cluster may run this image with any user id.
if ! getent passwd "$(id -u)" >/dev/null; then
  NSS_WRAPPER_PASSWD=$(mktemp) NSS_WRAPPER_GROUP=$(mktemp)
  echo "spark:x:$(id -u):$(id -g):spark:$SPARK_HOME:/bin/false" >"$NSS_WRAPPER_PASSWD"
  echo "spark:x:$(id -g):" >"$NSS_WRAPPER_GROUP"
  export NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP LD_PRELOAD=libnss_wrapper.so
fi

case "${1:-}" in
driver)
  shift
  exec tini -s -- "$SPARK_HOME/bin/spark-submit" --deploy-mode client \
    --conf "spark.driver.bindAddress=$SPARK_DRIVER_BIND_ADDRESS" \
    --conf "spark.executorEnv.SPARK_DRIVER_POD_IP=$SPARK_DRIVER_BIND_ADDRESS" \
    "$@"
  ;;
executor)
  # Spark numbers its Java options: SPARK_JAVA_OPT_0, SPARK_JAVA_OPT_1, ...
  options=()
  for ((i = 0; ; i++)); do
    option=SPARK_JAVA_OPT_$i
    [ -n "${!option+set}" ] || break
    options+=("${!option}")
  done
  # The classpath has the same order as in Apache's image.
  classpath="${HADOOP_CONF_DIR:+$HADOOP_CONF_DIR:}${SPARK_CONF_DIR:-$SPARK_HOME/conf}:${SPARK_CLASSPATH:+$SPARK_CLASSPATH:}$SPARK_HOME/jars/*"
  exec tini -s -- java "${options[@]}" "-Xms$SPARK_EXECUTOR_MEMORY" "-Xmx$SPARK_EXECUTOR_MEMORY" -cp "$classpath" \
    org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend \
    --driver-url "$SPARK_DRIVER_URL" --executor-id "$SPARK_EXECUTOR_ID" --cores "$SPARK_EXECUTOR_CORES" \
    --app-id "$SPARK_APPLICATION_ID" --hostname "$SPARK_EXECUTOR_POD_IP" \
    --resourceProfileId "$SPARK_RESOURCE_PROFILE_ID" --podName "$SPARK_EXECUTOR_POD_NAME"
  ;;
*)
  exec "$@"
  ;;
esac
