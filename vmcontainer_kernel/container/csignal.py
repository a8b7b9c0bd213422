"""`signal` as the C module has it: with numbers for names, and without `enum`, whose import takes a sixth of the time a
command of the runtime may take.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal

__all__ = ["signal"]
