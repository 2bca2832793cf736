"""A process's clock on the wall is wrong by as many seconds as stand in the file JUMPING_CLOCK, which may change.

Python imports this before anything else where its folder stands in PYTHONPATH. Clocks that only count go on as they do:
setting a machine's time does not move them.
"""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path
from typing import Any

_FILE = Path(os.environ["JUMPING_CLOCK"])
_time, _time_ns, _clock_gettime = time.time, time.time_ns, time.clock_gettime
_gmtime, _localtime, _datetime = time.gmtime, time.localtime, datetime.datetime


def _wrong_by() -> float:
    return float(_FILE.read_text() or 0)


class _Kind(type(datetime.datetime)):  # type: ignore[misc]
    def __instancecheck__(cls, one: object) -> bool:
        return isinstance(one, _datetime)


class _Datetime(datetime.datetime, metaclass=_Kind):
    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return _datetime.fromtimestamp(time.time(), tz)


time.time = lambda: _time() + _wrong_by()
time.time_ns = lambda: _time_ns() + int(_wrong_by() * 1e9)
time.clock_gettime = lambda clock: _clock_gettime(clock) + (_wrong_by() if clock == time.CLOCK_REALTIME else 0)
time.gmtime = lambda seconds=None: _gmtime(time.time() if seconds is None else seconds)
time.localtime = lambda seconds=None: _localtime(time.time() if seconds is None else seconds)
datetime.datetime = _Datetime  # type: ignore[misc]
