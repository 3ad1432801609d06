"""What a Slurm job's script runs on its first node before and after the processes of a start.

    python -m launch.slurm.start begin FOLDER ADDRESS         prints where the processes meet
    python -m launch.slurm.start end FOLDER CODE PREEMPTED    srun's exit code, and when Slurm preempted the job, if so

With the standard library only: the node's Python may have no packages.
"""

import os
import sys
from pathlib import Path

from launch import attempt
from launch.submission import Submission
from trainer.distributed.parent import EXIT_RETRY
from trainer.errors import UserError


def main(words: list[str]) -> int:
    """Returns 0, 75 where the job has to be queued again, or the job's exit code."""
    what, submission = words[0], Submission(Path(words[1]))
    index = int(os.environ.get("SLURM_ARRAY_TASK_ID", 0))
    number = int(os.environ.get("SLURM_RESTART_COUNT", 0))
    try:
        if what == "begin":
            port = attempt.free_port(int(os.environ["SLURM_JOB_ID"]) * 100 + number)
            attempt.begin(submission, index, number, os.environ["SLURM_JOB_NODELIST"], port)
            print(f"{words[2]}:{port}")
            return 0
        ended, preempted = f"srun ended with {words[2]}", bool(words[3:] and words[3])
        verdict = attempt.end(submission, index, number, ended, preempted=preempted)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"launch: {verdict.reason}{': again' if verdict.again else ''}", flush=True)
    return EXIT_RETRY if verdict.again else verdict.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
