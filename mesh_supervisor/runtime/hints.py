"""Names for annotations. The guest needs none of them when it runs, and to import ``typing`` and ``collections.abc``
for them costs an agent 10 ms: they load ``re``, ``enum``, ``functools``."""

TYPE_CHECKING = False  # type checkers take it for true

if TYPE_CHECKING:
    from collections.abc import Callable as Callable
    from collections.abc import Iterator as Iterator
    from types import CodeType as CodeType
    from types import FrameType as FrameType
    from types import ModuleType as ModuleType
    from types import TracebackType as TracebackType
    from typing import Any as Any
    from typing import NoReturn as NoReturn
else:

    class _Hint:
        def __getitem__(self, of):
            return self

    Callable = Iterator = CodeType = FrameType = ModuleType = TracebackType = Any = NoReturn = _Hint()
