"""A rank that takes too much memory, on a Slurm that limits it: the kernel's own killer ends it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.slurm_runs import SlurmRun, checkout
from tests.support.slurm_cluster import Cluster, cluster, missing, missing_memory_limits

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
    pytest.mark.skipif(missing_memory_limits() is not None, reason=str(missing_memory_limits())),
]


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Cluster]:
    folder = tmp_path / "slurm"
    folder.mkdir()
    with cluster(folder, nodes=1, limits_memory=True) as it:
        yield it


def test_rank_killed_for_its_memory_is_followed_by_a_new_start(slurm: Cluster, tmp_path: Path) -> None:
    run = SlurmRun(slurm, checkout(tmp_path / "code"), tmp_path / "run", "--mem", "300M")
    run.wait_for_start(0)
    (run.run_dir / "memory.1").write_text("600")
    run.finish(start=1)
    assert "oom-kill event" in run.log()  # slurmstepd's
    assert "Traceback" not in run.log()
    assert run.starts()[0]["again"]
