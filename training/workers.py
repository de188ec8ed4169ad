"""Several processes of one thread each that train one model: each takes its rows, gradients are summed once a step.

On a machine that others use too, threads wait for each other 200 times a step and processes once: two busy cores gave
700 to 2,100 tokens a second with two threads, and 1,700 to 3,300 with a single one.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed
from torch import Tensor

PATIENCE_S = 20.0  # with a process that has nothing left to do


class Workers:
    """This process and its peers. Rank 0 is the one that was started; it starts the others."""

    def __init__(self, size: int, rank: int, meeting: Path | None, arguments: list[str]) -> None:
        self.size, self.rank = size, rank
        self.peers: list[subprocess.Popen[bytes]] = []
        if size == 1:
            return
        if meeting is None:
            meeting = Path(tempfile.mkdtemp()) / "meeting"
            command = [sys.executable, "-m", "training.train", *arguments, "--meeting", str(meeting)]
            self.peers = [  # in sessions of their own: an interrupt from the terminal is the first one's to pass on
                subprocess.Popen([*command, "--rank", str(peer)], start_new_session=True) for peer in range(1, size)
            ]
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all processes are on this machine
        torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)

    def share(self, rows: Tensor) -> Tensor:
        """The rows of this process."""
        return rows[self.rank :: self.size]

    def sum_gradients(self, parameters: list[Tensor], facts: list[float]) -> list[float]:
        """Sums gradients over processes in place, and `facts`, which ride along; returns their sums."""
        if self.size == 1:
            return facts
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), torch.tensor(facts)])
        torch.distributed.all_reduce(flat)
        parts = flat[: -len(facts)].split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        return flat[-len(facts) :].tolist()

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            torch.distributed.barrier()

    def close(self) -> None:
        """The others leave first: a connection that is closed while they still read from it can hold them up."""
        for peer in self.peers:
            try:
                peer.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                peer.kill()
                peer.wait()
        if self.size > 1:
            torch.distributed.destroy_process_group()
