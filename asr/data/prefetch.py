"""Reading ahead: the next items are made by a thread while the current one is worked on."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def prefetch(items: Iterable[Item], ahead: int = 2) -> Iterator[Item]:
    """The items, in order, up to ``ahead`` of them made before they are asked for.

    One thread makes all of them: decoding audio, resampling and copying leave the interpreter to others. What
    making an item raises is raised in its place.
    """
    source, end = iter(items), object()
    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, source, end) for _ in range(ahead))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(thread.submit(next, source, end))
                yield item
        finally:  # whoever asks may have had enough
            thread.shutdown(wait=True, cancel_futures=True)
