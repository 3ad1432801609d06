"""How fast a training step could be at most: its operations and the bytes that its kernels read and write.

The roofline model (Williams, Waterman and Patterson 2009, doi:10.1145/1498765.1498785): a kernel takes at least its
operations over the peak and at least its bytes over the bandwidth.
"""

from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer.commands.benchmark.peak import Peak, peak, wait_for
from trainer.commands.cost import pass_cost
from trainer.loss import build_loss
from trainer.precision import Precision, autocast
from trainer.recipe import Recipe

IMAGES = 8  # that are counted: bytes grow with their number but for the weights, which are counted once
_PRODUCTS = ("convolution", "mm", "addmm")


@dataclass(frozen=True, kw_only=True)
class Roofline:
    flops_per_image: int
    bytes_per_image: float  # each kernel reads its inputs and writes its outputs once, nothing is fused
    fused_bytes_per_image: float  # of convolutions and matrix products alone: all else happens on the way
    peak_flops: float
    peak_source: str
    bandwidth: float  # bytes/s of a large copy, read and written, measured here

    @property
    def by_flops(self) -> float:
        """Images/s, where nothing but operations counted."""
        return self.peak_flops / self.flops_per_image

    @property
    def by_bytes(self) -> float:
        return self.bandwidth / self.bytes_per_image

    @property
    def by_fused_bytes(self) -> float:
        return self.bandwidth / self.fused_bytes_per_image

    def sentence(self) -> str:
        return (
            f"roofline: {self.flops_per_image / 1e9:.3g} GFLOP per image over {self.peak_flops / 1e12:.3g} TFLOP/s "
            f"({self.peak_source}) are {self.by_flops:,.0f} images/s at most; {self.bytes_per_image / 1e6:.3g} MB per "
            f"image over {self.bandwidth / 1e9:,.0f} GB/s (measured) {self.by_bytes:,.0f} with a kernel for each "
            f"operation, {self.by_fused_bytes:,.0f} with all but convolutions fused "
            f"({self.fused_bytes_per_image / 1e6:.3g} MB)"
        )

    def as_json(self) -> dict[str, Any]:
        bounds = {"by_flops": self.by_flops, "by_bytes": self.by_bytes, "by_fused": self.by_fused_bytes}
        return {**asdict(self), **bounds, "words": self.sentence()}


class _Traffic(TorchDispatchMode):
    """Adds up what each operation reads and writes, or both of what it changes; views and allocations move nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.all = self.products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not func.is_view and not name.startswith(("empty", "detach", "_unsafe_view")):
            size = _bytes((args, kwargs)) + _bytes(result)
            self.all += size
            self.products += size if any(name.startswith(product) for product in _PRODUCTS) else 0
        return result


def _bytes(tree: Any) -> int:
    """Of the tensors in it, each once."""
    tensors = {id(leaf): leaf.nbytes for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)}
    return sum(tensors.values())


def roofline(recipe: Recipe, module: nn.Module, device: torch.device) -> Roofline:
    """Of forward and backward pass; optimizer and weights, shared by a batch, are left out of the bytes."""
    size = recipe.train_crop.resolution
    images = torch.zeros(IMAGES, 3, size, size, device=device).to(memory_format=torch.channels_last)
    labels = torch.zeros(IMAGES, dtype=torch.int64, device=device)
    with _Traffic() as traffic:
        with autocast(recipe.precision, device):
            loss = build_loss(recipe.loss)(module(images), labels)
        loss.backward()
    module.zero_grad(set_to_none=True)
    weights = sum(parameter.numel() for parameter in module.parameters())
    of_weights, in_products = _bytes_of_a_weight(recipe.precision)
    found: Peak = peak(device, recipe.precision)
    return Roofline(
        flops_per_image=pass_cost(recipe, module).training_flops,
        bytes_per_image=(traffic.all - of_weights * weights) / IMAGES,
        fused_bytes_per_image=(traffic.products - in_products * weights) / IMAGES,
        peak_flops=found.flops_per_second,
        peak_source=found.source,
        bandwidth=_bandwidth(device),
    )


def _bytes_of_a_weight(precision: Precision) -> tuple[int, int]:
    """In forward and backward pass: of all operations, and of the products among them.

    The products read it in both passes and write its gradient. In 16 bits it is cast before (4 + 2), and its gradient
    after (2 + 4).
    """
    return (18, 6) if precision in ("bf16", "fp16") else (12, 12)


def _bandwidth(device: torch.device) -> float:
    """Bytes/s, read and written, of the fastest of some large copies."""
    source = torch.zeros(1 << (30 if device.type == "cuda" else 26), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    fastest = float("inf")
    for _ in range(10):
        wait_for(device)
        start = perf_counter()
        target.copy_(source)
        wait_for(device)
        fastest = min(fastest, perf_counter() - start)
    return 2 * source.nbytes / fastest
