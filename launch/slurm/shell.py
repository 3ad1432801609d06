"""The shell code around srun in a job's script. It keeps the job alive unless its user ends it.

SIGTERM does not end the script: what it means is known only when Slurm has been asked (start.py).
"""

import shlex
from pathlib import Path

from trainer.process.huge_pages import TUNABLE

_FUNCTIONS = r"""
signalled=
machine=
trap 'signalled=TERM' TERM
job="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"
# The answer of launch.slurm.start. Where the shared disk is full or away, tries for an hour; a signal ends that, as the
# script has only KillWait then.
launch_ask() {
  for try in $(seq 360); do
    if [ -d "$launch_folder/code" ]; then
      answer=$(LAUNCH_TRY=$try PYTHON -m launch.slurm.start "$@") && answer=${answer##*$'\n'} && return
    elif [ $try = 1 ]; then echo "launch: $launch_folder is not there: waiting for it for up to an hour"; fi
    if [ -n "$signalled" ]; then break; fi
    sleep 10
  done
  answer=
  return 1
}
# The address of this node; for an hour where Slurm does not answer.
launch_address() {
  for try in $(seq 360); do
    node=$(scontrol show node "$SLURMD_NODENAME" 2>/dev/null | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')
    if [ -n "$node$signalled" ]; then return; fi
    if [ $try = 1 ]; then echo "launch: Slurm does not answer: waiting for it for up to an hour"; fi
    sleep 10
  done
}
# What systemd and Slurm say of this node.
launch_machine() {
  systemctl is-system-running 2>/dev/null
  scontrol show node -o "$SLURMD_NODENAME" 2>/dev/null | sed -n 's/.* State=\([^ ]*\).*/\1/p'
}
# Leaves nodes out from the next start on. Slurm refuses that of a running job, so the job has to be queued again, and
# the SIGTERM that comes with this must not end scontrol.
launch_exclude() {
  trap '' TERM
  for try in $(seq 10); do
    if said=$(scontrol update JobId="$job" ExcNodeList="$1" 2>&1); then
      echo "launch: left out from now on: $1"
      return
    fi
    sleep 1
  done
  echo "launch: $1 could not be left out: $said"
}
# What follows from the end of the processes. A signal that arrives while it is decided changes what Slurm says.
launch_end() {
  asked=none
  while [ "$asked" != "$signalled" ]; do
    asked=$signalled
    shown=$(scontrol show job -o "$job" 2>/dev/null)
    if [ -n "$signalled" ]; then machine=$(launch_machine); fi
    launch_ask end "$launch_folder" "$1" "$signalled" "$shown" "$machine"
  done
  case "$answer" in "exit "*) exit ${answer#exit };; leave) exit 0;; esac
  if [ -z "$answer" ]; then
    case "$shown" in ""|*JobState=RUNNING*|*Reason=TimeLimit*) ;; *) exit 1;; esac
  fi
  exclude=${answer#again}
  exclude=${exclude# }
  if [ -n "$exclude" ] && ! said=$(sbatch --test-only --exclude="$exclude" "$0" 2>&1); then
    echo "launch: the job could not run without $exclude, so no more nodes are left out: $said"
    exclude=
  fi
  for try in $(seq 360); do
    if said=$(trap '' TERM; scontrol requeue "$job" 2>&1); then
      if [ -n "$exclude" ]; then launch_exclude "$exclude"; fi
      exit 0
    fi
    case "$said" in *disabled*|*"Invalid job id"*|*denied*) break;; esac
    if [ $try = 1 ]; then echo "launch: scontrol requeue failed, trying again for up to an hour: $said"; fi
    if [ "$asked" != "$signalled" ]; then break; fi
    sleep 10
  done
  echo "launch: the job could not be queued again, launch the run again to continue it: $said"
  exit 1
}"""


# As trainer/process/huge_pages.py. Where the nodes' Linux does not give them on request, it has no effect.
_HUGE_PAGES = (
    f'case "$(uname -m) $GLIBC_TUNABLES" in *{TUNABLE}=*) ;; '
    f'x86_64*) export GLIBC_TUNABLES="${{GLIBC_TUNABLES:+$GLIBC_TUNABLES:}}{TUNABLE}=1";; esac'
)


def before(folder: Path, python: str) -> list[str]:
    """The copy of the code, the CPUs of a process, and where the processes meet: for each start."""
    return [
        f"launch_folder={shlex.quote(str(folder))}",  # once: within quotes of its own it could be run as code
        'export PYTHONPATH="$launch_folder/code${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1',
        "export SUBMITIT_LOG_LEVEL=${SUBMITIT_LOG_LEVEL:-WARNING}",  # else its lines surround ours in every log
        _HUGE_PAGES,
        'if [ -n "$SLURM_CPUS_PER_TASK" ]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi',
        *_FUNCTIONS.strip().replace("PYTHON", python).splitlines(),
        "launch_address",
        'launch_ask begin "$launch_folder" "$node" || launch_end "no answer"',
        'case "$answer" in "exit "*) exit ${answer#exit };; esac',
        "meet=${answer#meet }",
        "export MASTER_ADDR=${meet%:*} MASTER_PORT=${meet##*:}",
        'if [ -n "$signalled" ]; then launch_end 143; fi',
    ]


def after() -> list[str]:
    """Whether the job is queued again."""
    return ["launch_end $?"]
