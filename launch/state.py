"""The state of a run's job, the same words on every cluster."""

from dataclasses import dataclass

WAITING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
ACTIVE = {"RUNNING", "CONFIGURING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED", "SUSPENDED", "RESIZING"}


@dataclass(frozen=True, kw_only=True)
class State:
    """The state of one run's job."""

    name: str
    """Slurm's word (a launcher without Slurm uses the same ones); GONE: nobody knows it; UNKNOWN: nobody answers"""
    job: str
    """what the cluster calls the job"""
    reason: str = ""
    """why it waits, or how it ended"""
    nodes: str = ""
    """where it runs or ran"""

    @property
    def is_over(self) -> bool:
        """False if nobody answers: asking again is better than starting a second job."""
        return self.name not in WAITING | ACTIVE | {"UNKNOWN"}
