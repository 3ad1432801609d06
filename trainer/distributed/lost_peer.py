"""One line for a lost peer, from one rank: every rank meets the loss, and each would report it."""

import os
from datetime import timedelta

import torch.distributed as dist

_PATIENCE = timedelta(seconds=1)  # the peers end with this rank


def is_first_to_report() -> bool:
    """Whether no other rank has asked yet; rank 1's answer where the store has ended with rank 0."""
    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(address, port, is_master=False, timeout=_PATIENCE)  # type: ignore[attr-defined]
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return int(dist.PrefixStore(f"lost peer {attempt}", store).add("reports", 1)) == 1  # type: ignore[attr-defined]
    except KeyError:
        return True
    except (RuntimeError, ValueError):
        return os.environ.get("RANK") == "1"
