"""The most memory that a stretch of work held: of a GPU by its allocator, of a process by the system's own count."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_MEMINFO = Path("/proc/meminfo")


class PeakMemory:
    """Counts from `reset` on. Where the system cannot begin anew (not Linux), from the start of the process on."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def reset(self) -> None:
        """Begin to count anew."""
        if self._device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(self._device)
        elif _CLEAR.exists():
            try:
                _CLEAR.write_text("5", encoding="ascii")  # the high water mark becomes what is held now
            except OSError:
                return

    def peak_bytes(self) -> int:
        """Return the most that was held since; 0 where nothing tells."""
        if self._device.type == "cuda":
            import torch

            return int(torch.cuda.max_memory_reserved(self._device))
        if _STATUS.exists():
            for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        try:
            import resource
        except ImportError:  # Windows
            return 0
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return int(most) if sys.platform == "darwin" else int(most) * 1024


def free_bytes(device: torch.device) -> int | None:
    """Return what is free for a training that starts now; None where nothing tells."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    if _MEMINFO.exists():
        for line in _MEMINFO.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None
