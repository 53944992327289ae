package org.ctbasis.mahout;

import java.util.HashMap;
import java.util.Map;
import org.apache.logging.log4j.Level;
import org.apache.logging.log4j.core.config.Configurator;
import org.apache.spark.SparkContext;
import org.apache.spark.api.java.JavaSparkContext;
import org.apache.spark.scheduler.SparkListener;
import org.apache.spark.scheduler.SparkListenerJobEnd;
import org.apache.spark.scheduler.SparkListenerJobStart;
import org.apache.spark.scheduler.SparkListenerTaskEnd;

/**
 * Progress of Spark on stderr: one line for each finished job, and one every few seconds during a long job. A step that
 * reports its own progress runs thousands of jobs with the local property {@link #MANY} set to "true"; of those jobs, only
 * the long ones get a line.
 */
public final class JobLog extends SparkListener {

  static final String MANY = "ctbasis.log.many";

  private static final long EVERY_MS = 5000;

  private static SparkContext attached;

  private final Map<Integer, Job> jobs = new HashMap<>();
  private final Map<Integer, Job> jobOfStage = new HashMap<>();
  private long lastLogged;

  private JobLog() {}

  /** Log the jobs of `context` from now on, and reduce Spark's own log to errors. Further calls have no effect. */
  public static synchronized void attach(JavaSparkContext context) {
    if (attached != context.sc()) {
      attached = context.sc();
      attached.addSparkListener(new JobLog());
      attached.setLogLevel("ERROR");
      // These two log failed tasks, which the driver reports as the failure of the job.
      Configurator.setLevel("org.apache.spark.executor.Executor", Level.OFF);
      Configurator.setLevel("org.apache.spark.scheduler.TaskSetManager", Level.OFF);
    }
  }

  private static final class Job {
    private final long started;
    private final String name;
    private final boolean many;
    private int tasks;

    private Job(SparkListenerJobStart start) {
      started = start.time();
      many = Boolean.parseBoolean(start.properties().getProperty(MANY));
      String description = start.properties().getProperty("spark.job.description", "");
      name = String.format("spark: job %d (%s)", start.jobId(), description);
    }
  }

  @Override
  public void onJobStart(SparkListenerJobStart start) {
    Job job = new Job(start);
    jobs.put(start.jobId(), job);
    start.stageInfos().foreach(stage -> jobOfStage.put(stage.stageId(), job));
    lastLogged = System.currentTimeMillis();
  }

  @Override
  public void onTaskEnd(SparkListenerTaskEnd task) {
    Job job = jobOfStage.get(task.stageId());
    if (job != null) {
      job.tasks++;
      if (!job.many && System.currentTimeMillis() - lastLogged >= EVERY_MS) {
        log(String.format("%s, %d tasks so far", job.name, job.tasks));
      }
    }
  }

  @Override
  public void onJobEnd(SparkListenerJobEnd end) {
    Job job = jobs.remove(end.jobId());
    jobOfStage.values().removeIf(job::equals);
    if (!job.many || end.time() - job.started >= EVERY_MS) {
      log(String.format("%s, %d tasks, %.1f s", job.name, job.tasks, (end.time() - job.started) / 1000.0));
    }
  }

  private void log(String line) {
    lastLogged = System.currentTimeMillis();
    System.err.println(line);
  }
}
