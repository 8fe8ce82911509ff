"""Work on many images with all cores: in chunks, in threads (pillow lets go of the GIL while it decodes)."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from s2dnas_deploy.errors import UnreadableError
from s2dnas_deploy.images.pixels import Pixels
from s2dnas_deploy.workshop.data.splits import Index, OnRead, PixelSource

# Large enough that handing over a chunk costs nothing beside decoding it, small enough that the first
# misfit among large photographs is reported within seconds.
_CHUNK_IMAGES = 64


def read_all(
    source: PixelSource, positions: Index, out: Pixels, on_read: OnRead = lambda count: None
) -> None:
    """Have the images at `positions` [N] decoded into `out`, uint8 [N, C, H, W], as `in_chunks` does it."""
    in_chunks(len(positions), lambda chunk: source.decode(positions[chunk], out[chunk]), on_read)


def in_chunks(count: int, work: Callable[[slice], None], on_done: OnRead = lambda count: None) -> None:
    """Call `work` on consecutive slices of 0..count-1 in threads; `on_done` is told how many more are done.

    Raises an `UnreadableError` of all files that cannot be read; what has not begun when anything else is
    raised is dropped, so that an error or Ctrl-C is quick.
    """
    starts = range(0, count, _CHUNK_IMAGES)
    chunks = [slice(start, min(start + _CHUNK_IMAGES, count)) for start in starts]

    def unreadable_in(chunk: slice) -> list[tuple[str, str]]:
        try:
            work(chunk)
        except UnreadableError as problem:
            return list(problem.files)
        return []

    executor = ThreadPoolExecutor(max_workers=os.cpu_count())
    unreadable: list[tuple[str, str]] = []
    try:
        for chunk, found in zip(chunks, executor.map(unreadable_in, chunks), strict=True):
            unreadable.extend(found)
            on_done(chunk.stop - chunk.start)
    finally:
        executor.shutdown(cancel_futures=True)
    if unreadable:
        raise UnreadableError(unreadable)
