"""Freed memory stays with the process, so that a step does not have the kernel clear its pages again."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from trainer.cpu.malloc import keep_freed_memory

if {keep}:
    assert keep_freed_memory()
faults = []
for _ in range(12):  # glibc before 2.38 asks for room for the alignment, and finds it in the eighth of equal tensors
    tensor = torch.ones(2**26, dtype=torch.uint8)  # 64 MiB: 16,384 pages
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    del tensor
print(faults[-1] - faults[-2])
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="tells glibc's malloc alone")
@pytest.mark.parametrize("keep", [True, False])
def test_memory_that_was_freed_is_used_again_without_page_faults(keep: bool) -> None:
    script = FAULTS.format(keep=keep)
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    pages = 2**26 // 4096
    assert int(found) < 0.01 * pages if keep else int(found) > 0.01 * pages  # the kernel may use pages of 2 MiB
