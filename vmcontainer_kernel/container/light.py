"""Two helpers that the standard library has, without what else comes with them.

`functools` and `contextlib` bring `collections`, `reprlib`, `operator` and `keyword`: a quarter of the time that Python
itself takes to start, and a command of the runtime is a new process each time.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from functools import partial
else:
    from _functools import partial

__all__ = ["partial", "suppress"]


class suppress:
    """Go on after the block if one of these errors ends it (contextlib.suppress)."""

    def __init__(self, *errors: type[BaseException]) -> None:
        self._errors = errors

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        return kind is not None and issubclass(kind, self._errors)
