"""Work on many items in threads, a few of them ahead, with the results in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(
    work: Callable[[T], R], items: Iterable[T], ahead: int = 64, threads: int | None = None
) -> Generator[Future[R], None, None]:
    """``work(item)`` of every item: finished or running futures, in the items' order.

    A future's ``result()`` gives the value or raises the error of its item. At most ``ahead`` items
    are begun before their results are taken, in ``threads`` threads (None: one a core, up to 8).
    """
    pool = ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1))
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) >= ahead:
                yield pending.popleft()
        while pending:
            yield pending.popleft()
    finally:
        pool.shutdown(cancel_futures=True)
