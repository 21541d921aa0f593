"""What Prometheus is told."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from quantvggt.serve.child import Child
from quantvggt.serve.queue import DONE, Job

_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1200)


class Metrics:
    """Counters of one server; times in seconds."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.accepted = Counter("quantvggt_jobs_accepted", "Jobs taken into the queue", registry=self._registry)
        self.refused = Counter(
            "quantvggt_requests_refused", "Requests answered with an error", ["status"], registry=self._registry
        )
        self._ended = Counter("quantvggt_jobs_ended", "Jobs by how they ended", ["state"], registry=self._registry)
        self._waited = Histogram(
            "quantvggt_job_waiting_seconds",
            "From acceptance to the last start",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._ran = Histogram(
            "quantvggt_job_running_seconds", "Of jobs that were done", buckets=_SECONDS, registry=self._registry
        )
        self._waiting = Gauge("quantvggt_queue_jobs", "Jobs that wait", registry=self._registry)
        self._ready = Gauge("quantvggt_worker_ready", "1 if the worker has its model", registry=self._registry)
        self._starts = Gauge("quantvggt_worker_starts", "How often the worker was started", registry=self._registry)

    def ended(self, job: Job) -> None:
        """Count a job that has ended."""
        self._ended.labels(job.state).inc()
        if job.state == DONE and job.started is not None and job.finished is not None:
            self._waited.observe(job.started - job.created)
            self._ran.observe(job.finished - job.started)

    def text(self, waiting: int, child: Child) -> bytes:
        """All of it, in Prometheus's text format."""
        self._waiting.set(waiting)
        self._ready.set(child.state in ("ready", "busy"))
        self._starts.set(child.starts)
        return generate_latest(self._registry)
