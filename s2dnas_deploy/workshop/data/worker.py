"""A process that makes batches: it reads orders and writes what it made, until nobody is there any more.

Started by `crew`. It imports no torch, so it is small, and it ends when the process that started it does,
even by `kill -9`, because its input ends then.
"""

import os
import pickle
import sys
from typing import BinaryIO

from s2dnas_deploy.errors import S2dnasError
from s2dnas_deploy.images.pixels import Pixels
from s2dnas_deploy.workshop.data.batch import Maker, Order


def main() -> None:
    """Serve one run. What libraries print must not get among the batches, so that goes to stderr."""
    orders = sys.stdin.buffer
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as batches:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        try:
            _serve(orders, batches)
        except (BrokenPipeError, EOFError, KeyboardInterrupt):
            os._exit(0)  # the run is over; what is still to be written has no reader


def _serve(orders: BinaryIO, batches: BinaryIO) -> None:
    maker: Maker = pickle.load(orders)  # noqa: S301 - from the process that started this one
    while True:
        order: Order = pickle.load(orders)  # noqa: S301 - from the process that started this one
        pickle.dump(_answer(maker, order), batches, protocol=pickle.HIGHEST_PROTOCOL)
        batches.flush()


def _answer(maker: Maker, order: Order) -> Pixels | S2dnasError:
    try:
        return maker.made(order)
    except S2dnasError as problem:
        return problem
