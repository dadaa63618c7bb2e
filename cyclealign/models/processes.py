"""The processes of this launch, and the device of each. Importing this loads no torch: the command line asks it too."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from accelerate import PartialState


def process_rank() -> int:
    """Place of this process in its launch; 0 without a launcher.

    Read from RANK, which accelerate and torchrun set before a process group exists, and from which the group takes it.
    """
    return int(os.environ.get("RANK", "0"))


def process_count() -> int:
    """Processes of this launch; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the one process of its launch that decides, writes and speaks."""
    return process_rank() == 0


def default_device() -> Literal["cuda", "cpu"]:
    """Where a model goes that belongs to one process: the first GPU where there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def process_state() -> PartialState:
    """Device and barrier of this process; joins the process group at the first call.

    Without ``cpu=True`` accelerate takes several CPU processes for one each, and every later caller inherits that.
    """
    from accelerate import PartialState

    return PartialState(cpu=default_device() == "cpu")


def leave_process_group() -> None:
    """End this process's part in the group, where there is one: left to the interpreter's exit, its threads can abort
    a process that has done all its work, and the launcher then reports a failure."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        process_state().destroy_process_group()
