"""A real Slurm on this machine, for as long as a test needs it: munged, slurmctld and a slurmd for each node.

Debian builds slurmd so that several can run on one machine, told apart by -N and their ports. Everything lives in one
folder and ends with the cluster; jobs run as the user who runs the tests. CONTRIBUTING.md says what it needs.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.ports import free_ports
from tests.support.processes import TIMEOUT, running

NEEDED = ("munged", "slurmctld", "slurmd", "srun")
NEEDED_FOR_ACCOUNTS = ("slurmdbd", "mariadbd", "mariadb-install-db")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
MEMORY = Path("/sys/fs/cgroup/memory")  # what Slurm 22.05 can limit on one machine: version 1

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
SlurmctldPort={port}
FirstJobId={first_job}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdSpoolDir={folder}/spool.%n
StateSaveLocation={folder}/state
ProctrackType=proctrack/linuxproc
TaskPlugin={task_plugin}
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
PropagateResourceLimits=NONE
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=200000,sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters={resources}
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait={kill_wait}
BatchStartTimeout=300
KillOnBadExit=0
SlurmdTimeout={node_timeout}
# slurmctld tries a dead node for MessageTimeout before it asks again, until SlurmdTimeout is over
MessageTimeout={message_timeout}
MinJobAge=300
{accounts}
{nodes}
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=10 State=UP PriorityTier=1
PartitionName=grace Nodes=ALL MaxTime=INFINITE DefaultTime=10 State=UP PriorityTier=1 GraceTime=30
PartitionName=cancelled Nodes=ALL MaxTime=INFINITE DefaultTime=10 State=UP PriorityTier=1 PreemptMode=CANCEL
PartitionName=high Nodes=ALL MaxTime=INFINITE DefaultTime=10 State=UP PriorityTier=10 PreemptMode=OFF
"""
NODE = (
    "NodeName=n{number} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 Boards=1 SocketsPerBoard=1 "
    "CoresPerSocket=4 ThreadsPerCore=1 RealMemory=4000 Gres=gpu:fake:2 State=UNKNOWN"
)
ACCOUNTS = """
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge.sock
"""
DATABASE = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={user}
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
StorageLoc=accounts
"""


def missing(accounts: bool = False) -> str | None:
    """Why there can be no cluster here; None where there can."""
    needed = [*NEEDED, *(NEEDED_FOR_ACCOUNTS if accounts else ())]
    absent = [name for name in needed if shutil.which(name, path=PATH) is None]
    if absent:
        return f"{', '.join(absent)} not installed: ./install.sh --tests installs Slurm on Debian and Ubuntu"
    return None


def missing_memory_limits() -> str | None:
    """Why no cluster here can limit the memory of a job; None where it can."""
    probe = MEMORY / f"probe-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        return f"{probe.parent} cannot be written ({error.strerror}): memory limits need root and cgroups of version 1"
    return None


class Cluster:
    """A running cluster. `env`: what programs need to find it."""

    def __init__(self, folder: Path, nodes: int, accounts: bool, gives_up_early: bool, limits_memory: bool) -> None:
        self.folder = folder
        self.nodes = nodes
        self.limits_memory = limits_memory
        self.gives_up_early = gives_up_early
        self.accounts = accounts
        self.env = {**os.environ, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}
        self._host = socket.gethostname().partition(".")[0]
        self._user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        ports = free_ports(self.nodes + 2)
        named = {"host": self._host, "user": self._user, "folder": self.folder}
        nodes = [NODE.format(number=n, port=ports[n], **named) for n in range(1, self.nodes + 1)]
        accounts = ACCOUNTS.format(port=ports[-1], **named) if self.accounts else ""
        # seconds: on a busy machine Slurm must not give up before the test does
        limits = {"node_timeout": 300, "message_timeout": 20, "kill_wait": 60}
        if self.gives_up_early:
            limits = {"node_timeout": 8, "message_timeout": 5, "kill_wait": 15}
        plugins = {"task_plugin": "task/none", "resources": "CR_Core"}
        if self.limits_memory:
            plugins = {"task_plugin": "task/cgroup", "resources": "CR_Core_Memory"}
        first_job = 1 + secrets.randbelow(50_000)  # the port of a start follows from it, and other clusters run beside
        text = CONF.format(
            port=ports[0], first_job=first_job, nodes="\n".join(nodes), accounts=accounts, **plugins, **limits, **named
        )
        (self.folder / "slurm.conf").write_text(text)
        devices = "".join(f"NodeName=n[1-{self.nodes}] Name=gpu Type=fake File=/dev/{d}\n" for d in ("null", "zero"))
        (self.folder / "gres.conf").write_text(devices)
        # named, because its autodetection fails where no cgroup is mounted; without a limit it does nothing
        control = ["CgroupPlugin=cgroup/v1", "CgroupAutomount=no", f"CgroupMountpoint={MEMORY.parent}"]
        if self.limits_memory:
            control += ["ConstrainRAMSpace=yes"]
            if (MEMORY / "memory.memsw.limit_in_bytes").exists():
                control += ["ConstrainSwapSpace=yes", "AllowedSwapSpace=0"]  # else a machine with swap kills nobody
        (self.folder / "cgroup.conf").write_text("\n".join(control) + "\n")
        (self.folder / "state").mkdir()
        self._start_munge()
        if self.accounts:
            self._start_accounts(DATABASE.format(port=ports[-1], **named))
        self._controller = self._daemon("slurmctld", "-D", "-c", "-i")
        for number in range(1, self.nodes + 1):
            self.start_node(number)
        self.wait_until(lambda: self.idle() == self.nodes, "the nodes are idle")

    def start_node(self, number: int) -> None:
        (self.folder / f"spool.n{number}").mkdir(exist_ok=True)
        self._daemon("slurmd", "-D", "-N", f"n{number}", NODE=f"n{number}")  # inherited by what it starts

    def stop_controller(self) -> None:
        """As before a restart: slurmctld saves its state. Killed at once, it may not have saved the job of just now."""
        self._controller.terminate()
        self._controller.wait()

    def start_controller(self) -> None:
        """It knows its jobs from its state directory."""
        self._controller = self._daemon("slurmctld", "-D")
        self.wait_until(lambda: "UP" in self.run("scontrol", "ping", check=False), "slurmctld answers")

    def lose_node(self, number: int) -> None:
        """As a machine that loses its power: slurmd and everything it had started, at once."""
        victims = [
            process
            for process, _, environment in running()
            if self._is_mine(environment)
            and f"n{number}" in (environment.get(name) for name in ("NODE", "SLURMD_NODENAME"))
        ]
        for process in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def run(self, *words: str, check: bool = True) -> str:
        """What a command prints, such as squeue."""
        ended = subprocess.run(words, capture_output=True, text=True, env=self.env, timeout=TIMEOUT)
        assert not check or ended.returncode == 0, (words, ended.stdout, ended.stderr)
        return ended.stdout

    def processes(self, job: str, **variables: str) -> dict[int, str]:
        """Process id -> command line of the processes of a job whose environment has these values."""
        wanted = {"SLURM_CONF": self.env["SLURM_CONF"], "SLURM_JOB_ID": job, **variables}
        return {process: " ".join(words) for process, words, given in running() if wanted.items() <= given.items()}

    def idle(self) -> int:
        return len(set(self.run("sinfo", "-h", "-N", "-t", "idle", "-o", "%N", check=False).split()))

    def job(self, job: str) -> dict[str, str]:
        """What scontrol shows of a job; nothing where slurmctld is too busy to answer."""
        words = self.run("scontrol", "show", "job", "-o", job, check=False).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for_end(self, job: str) -> str:
        """Waits until a job is over, and returns its state."""
        states: list[str] = []

        def is_over() -> bool:
            states.append(self.job(job).get("JobState", ""))
            return states[-1] in OVER

        self.wait_until(is_over, f"job {job} ends")
        return states[-1]

    def wait_until(self, condition, what: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < deadline, f"not within {TIMEOUT} s: {what}\n{self.story()}"
            time.sleep(0.1)

    def story(self) -> str:
        """For a failed test: the queue, and the end of each log."""
        logs = [f"{log.name}:\n{log.read_text()[-1500:]}" for log in sorted(self.folder.glob("*.log"))]
        return "\n".join([self.run("squeue", "-t", "all", check=False), self.run("sinfo", "-N", check=False), *logs])

    def stop(self) -> None:
        self.run("scancel", "--full", "--signal=KILL", "--user", self._user, check=False)
        for daemon in reversed(self._daemons):
            daemon.kill()
            daemon.wait()
        for process, _, environment in running():
            if self._is_mine(environment):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)

    def _is_mine(self, environment: dict[str, str]) -> bool:
        return environment.get("SLURM_CONF") == self.env["SLURM_CONF"]

    def _daemon(self, *words: str, **more: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{words[0]}.out").open("ab") as out:
            env = {**self.env, **more}
            self._daemons.append(subprocess.Popen(words, env=env, stdout=out, stderr=out, start_new_session=True))
        return self._daemons[-1]

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        files = {"key-file": key, "socket": self.folder / "munge.sock", "pid-file": self.folder / "munge.pid"}
        files |= {"log-file": self.folder / "munged.log", "seed-file": self.folder / "munge.seed"}
        self._daemon("munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in files.items()))
        self.wait_until(lambda: (self.folder / "munge.sock").exists(), "munged listens")

    def _start_accounts(self, conf: str) -> None:
        data, sock, tmp = self.folder / "db", self.folder / "db.sock", self.folder / "db.tmp"
        data.mkdir()
        tmp.mkdir()  # not /tmp: a server that starts deletes there the temporary tables of all others
        where = ["--no-defaults", f"--user={self._user}", f"--datadir={data}", f"--tmpdir={tmp}"]
        self.run("mariadb-install-db", *where, "--auth-root-authentication-method=normal", "--skip-test-db")
        self._daemon("mariadbd", *where, f"--socket={sock}", "--skip-networking", "--innodb-flush-log-at-trx-commit=0")
        sql = (
            "CREATE DATABASE accounts; CREATE USER slurm@localhost IDENTIFIED BY 'slurm'; "
            "GRANT ALL ON accounts.* TO slurm@localhost;"
        )
        client = ["mariadb", "--no-defaults", f"--socket={sock}", "-u", "root"]
        ready = lambda: subprocess.run([*client, "-e", "SELECT 1"], env=self.env, capture_output=True).returncode == 0  # noqa: E731
        self.wait_until(ready, "the database answers")
        self.run(*client, "-e", sql)
        (self.folder / "slurmdbd.conf").write_text(conf)
        (self.folder / "slurmdbd.conf").chmod(0o600)
        self._daemon("slurmdbd", "-D", MYSQL_UNIX_PORT=str(sock))
        self.wait_until(lambda: bool(self.run("sacctmgr", "-n", "list", "user", check=False)), "slurmdbd answers")
        self.run("sacctmgr", "-i", "add", "cluster", "test")


@contextlib.contextmanager
def cluster(
    folder: Path,
    nodes: int = 2,
    accounts: bool = False,
    gives_up_early: bool = False,
    limits_memory: bool = False,
) -> Iterator[Cluster]:
    """A cluster for the time of the block.

    `gives_up_early`: on nodes that do not answer, within seconds. `limits_memory`: the kernel kills what exceeds --mem.
    """
    folder.chmod(0o755)
    it = Cluster(folder, nodes, accounts, gives_up_early, limits_memory)
    try:
        it.start()
        yield it
    finally:
        it.stop()
