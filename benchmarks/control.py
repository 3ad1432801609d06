"""What the ranks' control costs in each step: messages around the ring, or rank 0's horizon in the store. On CPUs.

    python -m benchmarks.control [--ranks 2 4 8 16] [--step-ms 10] [--rounds 5] [--delay-ms 0.5]

A step is a pause, as a GPU's is for its host. Its control is a look for requests to save or stop, and a line of metrics
after every 20 steps. "ring": an all-reduce of one number in each step, read one step later, and sums that are read at
once. "store": trainer's own. Each round has a window of pauses alone, of the ring and of the store, in turn.
"""

import argparse
import json
import os
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from multiprocessing import get_context
from multiprocessing.connection import Connection

import torch
import torch.distributed as dist

from benchmarks.delayed_network import address, delayed_network, enter, is_possible
from trainer.distributed import process_group
from trainer.distributed.process_group import World, start_sum, sum_over_ranks
from trainer.distributed.stop import StopSignal
from trainer.distributed.watchdog import Watchdog

LINE = 20  # steps
Control = Callable[[int], None]


def ring(world: World) -> Control:
    """One all-reduce in each step; a line of metrics waits for a sum and for a number of each rank."""
    metrics, own = torch.zeros(3, LINE, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    pending: list[dist.Work] = []

    def after_step(step: int) -> None:
        if pending:
            pending.pop().wait()
        work = dist.all_reduce(torch.tensor(0), dist.ReduceOp.MAX, group=world.gloo, async_op=True)
        assert work is not None
        pending.append(work)
        if step % LINE == 0:
            sum_over_ranks(world, metrics)
            dist.all_gather([torch.zeros_like(own) for _ in range(world.size)], own, group=world.gloo)

    return after_step


def store(world: World, stop_signal: StopSignal) -> Control:
    """trainer's: no message in a step, and a line's sums are read one line later."""
    metrics, own = torch.zeros(3, 2 * LINE, dtype=torch.float64), torch.zeros(world.size, dtype=torch.float64)
    pending: list[Callable[[], torch.Tensor]] = []

    def after_step(step: int) -> None:
        stop_signal.after_step(step)
        if step % LINE == 0:
            while pending:
                pending.pop()()
            pending.extend([start_sum(world, metrics), start_sum(world, own)])

    return after_step


def measure(world: World, steps: int, pause: float, rounds: int) -> dict[str, list[list[float]]]:
    """For each kind the rounds' milliseconds per step of this rank: by the clock, and of its CPU time."""
    found: dict[str, list[list[float]]] = {"pauses": [], "ring": [], "store": []}
    with StopSignal(world) as stop_signal, Watchdog(world, stop_signal, 3, 30):
        stop_signal.begin(0)
        controls: dict[str, Control] = {
            "pauses": lambda _step: None,
            "ring": ring(world),
            "store": store(world, stop_signal),
        }
        done = dict.fromkeys(controls, 0)
        for number in range(rounds + 1):  # the first is a warm-up
            for kind, control in controls.items():
                dist.barrier(group=world.gloo)
                began, worked = time.perf_counter(), time.process_time()
                for _ in range(steps):
                    time.sleep(pause)
                    done[kind] += 1
                    control(done[kind])
                if number:
                    spent = (time.perf_counter() - began, time.process_time() - worked)
                    found[kind].append([1000 * seconds / steps for seconds in spent])
    return found


def rank_process(
    rank: int, size: int, machine: str | None, port: int, steps: int, pause: float, rounds: int, out: Connection
) -> None:
    """One rank, in a process of its own. `machine`: a network namespace of its own; None: all are on this machine."""
    here = {"MASTER_ADDR": "127.0.0.1", "LOCAL_WORLD_SIZE": size, "LOCAL_RANK": rank}
    if machine:
        enter(machine)
        here = {"MASTER_ADDR": address(0), "LOCAL_WORLD_SIZE": 1, "LOCAL_RANK": 0}
    here |= {"WORLD_SIZE": size, "RANK": rank, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in here.items()})
    torch.set_num_threads(1)
    with process_group.initialize("cpu", 5) as world:
        found = measure(world, steps, pause, rounds)
        if world.is_main:
            out.send(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--step-ms", type=float, default=10.0)
    parser.add_argument("--steps", type=int, default=100, help="of a window")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--delay-ms", type=float, help="of a message from one rank's machine to another's")
    options = parser.parse_args()
    if options.delay_ms is not None and not is_possible():
        parser.error("--delay-ms makes network namespaces: it needs root, the command `ip` and /dev/net/tun")
    print("| ranks | ring, ms per step | store | CPU: ring | CPU: store |\n|---|---|---|---|---|", flush=True)
    for size in options.ranks:
        network: AbstractContextManager[Sequence[str | None]] = nullcontext([None] * size)
        if options.delay_ms is not None:
            network = delayed_network(size, options.delay_ms / 1000)
        with network as machines:
            found = run(machines, options.steps, options.step_ms / 1000, options.rounds)
        print(row(size, found), flush=True)
        print(json.dumps({"ranks": size, **found}), flush=True)


def run(machines: Sequence[str | None], steps: int, pause: float, rounds: int) -> dict[str, list[list[float]]]:
    """What rank 0 measures, of one rank on each machine."""
    context = get_context("fork")  # torch is imported once
    receiver, sender = context.Pipe(duplex=False)
    given = (free_port(), steps, pause, rounds, sender)
    ranks = [
        context.Process(target=rank_process, args=(rank, len(machines), machine, *given))
        for rank, machine in enumerate(machines)
    ]
    for process in ranks:
        process.start()
    found: dict[str, list[list[float]]] = receiver.recv()
    for process in ranks:
        process.join()
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def row(size: int, found: dict[str, list[list[float]]]) -> str:
    """What a step takes more than its pause: medians of the rounds, and their range."""
    cells = []
    for which in (0, 1):
        for kind in ("ring", "store"):
            more = [ours[which] - pause[which] for ours, pause in zip(found[kind], found["pauses"], strict=True)]
            cells.append(f"{statistics.median(more):.2f} ({min(more):.2f} to {max(more):.2f})")
    return f"| {size} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
