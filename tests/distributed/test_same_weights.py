"""A rank whose weights differ is named before a checkpoint is written."""

import socket
from pathlib import Path

import pytest
import torch

from tests.support.processes import SUPPORT, TIMEOUT, start_ranks
from trainer.distributed.same_weights import _different, digest


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_digest_changes_with_each_bit_of_each_tensor(dtype: torch.dtype) -> None:
    tensors = [torch.randn(3, 5).to(dtype), torch.randn(7).to(dtype)]
    before = digest(tensors)
    assert before == digest([tensor.clone() for tensor in tensors])
    for tensor in tensors:
        in_bytes = tensor.view(-1).view(torch.uint8)
        for element in (0, tensor.numel() - 1):
            for bit in range(8 * dtype.itemsize):  # the last one is the sign
                byte = element * dtype.itemsize + bit // 8
                in_bytes[byte] ^= 1 << bit % 8
                assert digest(tensors) != before
                in_bytes[byte] ^= 1 << bit % 8
    assert digest(tensors[::-1]) != before


def test_different_weights_name_the_minority_or_all_ranks_without_a_majority() -> None:
    nodes = ["a", "a", "b", "b"]
    assert "the weights of rank 2 (node b) differ from those of the others" in _different([5, 5, 6, 5], nodes, 7)
    assert "rank 0 (node a), rank 1 (node a) differ" in _different([5, 6], nodes, 7)
    assert "rank 0 (node a), rank 1 (node a), rank 2 (node b), rank 3 (node b) differ" in _different(
        [5, 5, 6, 6], nodes, 7
    )


@pytest.mark.slow
def test_rank_with_other_weights_is_named_and_the_last_checkpoint_stays(digits: Path, tmp_path: Path) -> None:
    """Of three ranks, rank 1 flips the lowest bit of one weight in step 3; every second step is saved.

    It alone reports its node, in the file that its launcher would look for.
    """
    script = (
        "import os, sys, torch\n"
        "os.environ['LAUNCH_FAULTY_NODE'] = sys.argv.pop() + os.environ['RANK']\n"
        "from trainer.__main__ import main\n"
        "from trainer.step import TrainingStep\n"
        "def update(self):\n"
        "    done = update_really(self)\n"
        "    if self._world.rank == 1 and self._state.position.step == 2:\n"
        "        next(self._state.module.parameters()).data[0, 0, 0, 0].view(torch.int32).bitwise_xor_(1)\n"
        "    return done\n"
        "update_really, TrainingStep._update_weights = TrainingStep._update_weights, update\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    given = ["train", str(SUPPORT / "small_recipe.py"), "--data", str(digits), "--run-dir", str(tmp_path)]
    given += ["--checkpoint-steps", "2", "--workers", "1", "--no-pictures"]
    ranks = start_ranks(["-c", script, *given, str(tmp_path / "faulty.")], 3)
    said = [rank.communicate(timeout=TIMEOUT)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [75, 75, 75], said
    expected = (
        f"error: after step 4 the weights of rank 1 (node {socket.gethostname()}) differ from those of the others"
    )
    assert said[0].startswith(expected) and said[0].count("\n") == 1
    assert said[1:] == ["", ""]
    assert [path.name for path in (tmp_path / "checkpoints").glob("*.pt")] == ["step_00000002.pt"]
    (faulty,) = tmp_path.glob("faulty.*")
    assert faulty.name == "faulty.1"
    assert faulty.read_text() == "after step 4 the weights of rank 1 differed from those of the others"
