"""DDP's batched copies of gradients are asked for where they help, and change no gradient of two ranks."""

from unittest.mock import patch

import pytest
import torch

from tests.support.processes import TIMEOUT, start_ranks
from trainer.distributed import ddp

# Three steps with and without, for each way to exchange gradients; prints which of them are equal, bit for bit.
RANK = """
import torch
from trainer.distributed import ddp, process_group
from trainer.model import build_model
from trainer.recipe import CifarResNet

def gradients(world, copies, compression, accumulation):
    torch.manual_seed(0)
    model = build_model(CifarResNet(depth=8), 10).to(memory_format=torch.channels_last)
    ddp._batched_copies = lambda _device: {"batched_grad_copy": copies}
    parallel = ddp.wrap(model, world, compression, bucket_mb=0.05)
    assert parallel.batched_grad_copy == copies
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    torch.manual_seed(world.rank)
    seen = []
    for _ in range(3):
        for micro_step in range(accumulation):
            with ddp.gradient_sync(parallel, micro_step == accumulation - 1):
                parallel(torch.randn(4, 3, 8, 8)).square().mean().backward()
        seen += [parameter.grad.clone() for parameter in model.parameters()]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return seen

with process_group.initialize("cpu", timeout_minutes=15) as world:
    for compression, accumulation in [(None, 1), (None, 2), ("bf16", 1)]:
        ours, plain = (gradients(world, copies, compression, accumulation) for copies in (True, False))
        print(compression, accumulation, all(map(torch.equal, ours, plain)))
"""


def knows_batched_copies() -> bool:
    return bool(ddp._batched_copies(torch.device("cuda")))


def test_batched_copies_are_for_gpus_and_for_a_torch_that_has_them() -> None:
    class Older:
        def __init__(self, module: object, bucket_cap_mb: float) -> None: ...

    class Newer:
        def __init__(self, module: object, bucket_cap_mb: float, batched_grad_copy: bool = False) -> None: ...

    for parallel, expected in ((Older, {}), (Newer, {"batched_grad_copy": True})):
        with patch.object(ddp, "DistributedDataParallel", parallel):
            assert ddp._batched_copies(torch.device("cuda", 0)) == expected
            assert ddp._batched_copies(torch.device("cpu")) == {}


@pytest.mark.slow
@pytest.mark.skipif(not knows_batched_copies(), reason="this torch has no batched_grad_copy")
def test_batched_copies_change_no_bit_of_the_gradients_of_two_ranks() -> None:
    ranks = start_ranks(["-c", RANK], 2)
    said = [rank.communicate(timeout=TIMEOUT) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    assert {out for out, _ in said} == {"None 1 True\nNone 2 True\nbf16 1 True\n"}
