"""The processes of this launch, as accelerate sees them."""

from __future__ import annotations

import torch
from accelerate import PartialState


def process_state() -> PartialState:
    """Rank, world size, device and barrier of this process; joins the process group at the first call.

    Without ``cpu=True`` accelerate takes several CPU processes for one each, and every later caller inherits that.
    """
    return PartialState(cpu=not torch.cuda.is_available())


def leave_process_group() -> None:
    """End this process's part in the group, where there is one: left to the interpreter's exit, its threads can abort
    a process that has done all its work, and the launcher then reports a failure."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        process_state().destroy_process_group()
