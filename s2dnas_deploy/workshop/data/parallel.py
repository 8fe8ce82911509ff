"""Work on many images with all cores: in chunks, in threads (pillow lets go of the GIL while it decodes)."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")

# Large enough that handing over a chunk costs nothing beside decoding it, small enough that the first
# misfit among large photographs is reported within seconds.
_CHUNK_IMAGES = 64


def work_in_chunks(
    count: int, work: Callable[[range], Result], on_result: Callable[[range, Result], None]
) -> None:
    """Call `work` on consecutive ranges of 0..count-1 in threads, and `on_result` here, in their order.

    What has not begun when either raises is dropped, so that an error or Ctrl-C is quick.
    """
    chunks = [range(start, min(start + _CHUNK_IMAGES, count)) for start in range(0, count, _CHUNK_IMAGES)]
    executor = ThreadPoolExecutor(max_workers=os.cpu_count())
    try:
        for chunk, result in zip(chunks, executor.map(work, chunks), strict=True):
            on_result(chunk, result)
    finally:
        executor.shutdown(cancel_futures=True)
