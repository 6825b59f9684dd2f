"""Data parallelism: the processes that torchrun starts, on one machine or many.

Without torchrun there is one process, and everything here does nothing at no cost.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from genesis_core.device import resolve_device


class Processes:
    """This process among all that train together. A context manager: connects and disconnects.

    Attributes:
        rank: 0 to world_size - 1.
        world_size: number of processes.
        device: where this one computes; under torchrun with CUDA, the GPU of its local rank.

    Raises:
        DeviceError: the device, or one GPU for each local process, is not there.
    """

    def __init__(self, device: str = "auto") -> None:
        self.rank = int(os.environ.get("RANK", 0))
        self.world_size = int(os.environ.get("WORLD_SIZE", 1))
        self.device = resolve_device(device)
        if self.world_size > 1 and self.device.type == "cuda":
            self.device = resolve_device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}")

    def __enter__(self) -> Processes:
        if self.world_size > 1:
            backend = "gloo"
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
                backend = "cpu:gloo,cuda:nccl"
            dist.init_process_group(backend)
        return self

    def __exit__(self, *error: object) -> None:
        if self.world_size > 1:
            dist.destroy_process_group()

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that logs and saves."""
        return self.rank == 0

    def wrap(self, module: nn.Module, *, partly: bool = False) -> nn.Module:
        """The module with its gradients averaged over all processes.

        Args:
            partly: some of what learns takes no part in a step.
        """
        if self.world_size == 1:
            return module
        # 1x1 kernels are contiguous in both memory formats, which DDP takes for a mismatch.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        devices = None
        if self.device.type == "cuda":
            devices = [self.device.index]
            # Statistics of the global batch (GENESIS). PyTorch has this for CUDA only: on the CPU
            # each process normalises by its own share.
            module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        # Constant coordinates and, of GENESIS, running statistics, of which the main process saves
        # its own: nothing to broadcast.
        return DistributedDataParallel(
            module,
            device_ids=devices,
            broadcast_buffers=False,
            find_unused_parameters=partly,
        )

    def mean(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scalars averaged over all processes, in one exchange."""
        if self.world_size == 1:
            return values
        packed = torch.stack([value.float() for value in values.values()])
        dist.all_reduce(packed)
        return dict(zip(values, (packed / self.world_size).unbind(), strict=True))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process.

        Exchanged between the CPUs, so that no process waits for its GPU.
        """
        if self.world_size == 1:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags)

    def from_main(self, value: Any) -> Any:
        """The main process's value, in every process."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, device=torch.device("cpu"))
        return box[0]
