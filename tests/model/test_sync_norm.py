"""Batch norm over all ranks: as one process with the whole batch, in every output, gradient and statistic."""

import pytest
import torch
from torch import nn

from tests.support.processes import TIMEOUT, start_ranks
from trainer.errors import UserError
from trainer.model import build_model
from trainer.model.sync_norm import SyncNorm, sync_norms
from trainer.recipe import CifarResNet, LibraryModel

# Three ranks with 4 of 12 images each, two training steps; each rank compares itself with the whole batch.
WHOLE_BATCH = """
import copy, torch, torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from trainer.distributed import ddp, process_group
from trainer.model.sync_norm import sync_norms

with process_group.initialize("cpu", 15) as world:
    torch.manual_seed(0)
    whole = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6, momentum=None),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    ).to(memory_format=torch.channels_last)
    shared = copy.deepcopy(whole)
    sync_norms(shared)
    parallel = ddp.wrap(shared, world)
    own = slice(4 * world.rank, 4 * world.rank + 4)
    for _ in range(2):
        images = 3 + 5 * torch.randn(12, 3, 9, 9)
        labels = torch.randint(5, (12,))
        everything, part = images.clone().requires_grad_(), images[own].clone().requires_grad_()
        expected, found = whole(everything), parallel(part)
        torch.testing.assert_close(found, expected[own], rtol=1e-5, atol=1e-5)
        cross_entropy(expected, labels).backward()
        cross_entropy(found, labels[own]).backward()
        torch.testing.assert_close(part.grad / world.size, everything.grad[own], rtol=1e-4, atol=1e-6)
        for ours, theirs in zip(shared.parameters(), whole.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)
            with torch.no_grad():
                ours -= 0.1 * theirs.grad
                theirs -= 0.1 * theirs.grad
            ours.grad = theirs.grad = None
        for ours, theirs in zip(shared.buffers(), whole.buffers(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(shared.eval()(images), whole.eval()(images), rtol=1e-5, atol=1e-5)
print("the same", flush=True)
"""


@pytest.mark.slow
def test_sync_norm_of_three_ranks_is_one_process_with_the_whole_batch() -> None:
    ranks = start_ranks(["-c", WHOLE_BATCH], 3)
    said = [rank.communicate(timeout=TIMEOUT) for rank in ranks]
    assert [(out.strip(), rank.returncode) for (out, _), rank in zip(said, ranks, strict=True)] == [
        ("the same", 0)
    ] * 3, said


def test_sync_norm_of_one_process_is_batch_norm_bit_for_bit() -> None:
    torch.manual_seed(0)
    plain = build_model(CifarResNet(depth=8), 10)
    torch.manual_seed(0)
    synced = build_model(CifarResNet(depth=8), 10, sync_norm=True)
    norms = [module for module in synced.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 7 and all(isinstance(norm, SyncNorm) for norm in norms)
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(plain(images), synced(images))
    assert [*plain.state_dict()] == [*synced.state_dict()]


def test_sync_norm_refuses_norms_with_an_activation() -> None:
    with pytest.raises(UserError, match=r"sync_norm knows BatchNorm2d only, but stages\.0\S* is BatchNormAct2d"):
        build_model(LibraryModel(name="timm/resnetv2_50"), 10, sync_norm=True)
    with pytest.raises(UserError, match="but 0 is BatchNorm1d"):
        sync_norms(nn.Sequential(nn.BatchNorm1d(3)))
