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
 * Spark's progress on stderr: a line for each job that ends, and one every few seconds of a long one. Of jobs whose local
 * property {@link #MANY} is "true", thousands of a step that reports its own progress, only long ones are said.
 */
public final class JobLog extends SparkListener {

  static final String MANY = "ctbasis.log.many";

  private static final long EVERY_MS = 5000;

  private static SparkContext attached;

  private final Map<Integer, Job> jobs = new HashMap<>();
  private final Map<Integer, Job> jobOfStage = new HashMap<>();
  private long lastSaid;

  private JobLog() {}

  /** Report the jobs of `context`, once however often this is called, and keep Spark's own log to errors. */
  public static synchronized void attach(JavaSparkContext context) {
    if (attached != context.sc()) {
      attached = context.sc();
      attached.addSparkListener(new JobLog());
      attached.setLogLevel("ERROR");
      // What these two have to say of a task that failed reaches the driver as the job's failure.
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
    lastSaid = System.currentTimeMillis();
  }

  @Override
  public void onTaskEnd(SparkListenerTaskEnd task) {
    Job job = jobOfStage.get(task.stageId());
    if (job != null) {
      job.tasks++;
      if (!job.many && System.currentTimeMillis() - lastSaid >= EVERY_MS) {
        say(String.format("%s, %d tasks so far", job.name, job.tasks));
      }
    }
  }

  @Override
  public void onJobEnd(SparkListenerJobEnd end) {
    Job job = jobs.remove(end.jobId());
    jobOfStage.values().removeIf(job::equals);
    if (!job.many || end.time() - job.started >= EVERY_MS) {
      say(String.format("%s, %d tasks, %.1f s", job.name, job.tasks, (end.time() - job.started) / 1000.0));
    }
  }

  private void say(String line) {
    lastSaid = System.currentTimeMillis();
    System.err.println(line);
  }
}
