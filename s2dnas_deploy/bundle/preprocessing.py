"""Preprocessing: how the pixels of an image become the numbers that a network reads.

Part of the bridge: training writes it into `model.pt`, and the device must do exactly the same.

    x[c] = (pixel[c] / 255 - mean[c]) / std[c]
"""

from dataclasses import asdict, dataclass
from math import prod
from typing import Annotated, Any

from s2dnas_deploy.errors import CheckpointError
from s2dnas_deploy.files.bounds import Above, Between, Length, Matching
from s2dnas_deploy.files.document import check_record
from s2dnas_deploy.images.resizing import PATTERN, WORDS

MOST_NUMBERS = 2**28
"""In a tensor of one image: buffers are made of what files say of shapes. In float32 it is 1 GiB."""
_Size = Annotated[int, Between(1, 2**16)]
ImageShape = tuple[_Size, _Size, _Size]
"""Channels, height, width."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Shape [C, H, W], per-channel mean and std of pixels scaled to 0..1, and how images are resized."""

    input_shape: ImageShape
    mean: Annotated[tuple[float, ...], Length(1, 2**16)]
    std: Annotated[tuple[Annotated[float, Above(0)], ...], Length(1, 2**16)]
    resize: Annotated[str, Matching(PATTERN, WORDS)] | None = None

    def __post_init__(self) -> None:
        check_record(self, CheckpointError)
        channels = self.input_shape[0]
        if len(self.mean) != channels or len(self.std) != channels:
            raise CheckpointError(
                f"expected a mean and a std for each of {channels} channels, got {len(self.mean)} and "
                f"{len(self.std)}"
            )
        if prod(self.input_shape) > MOST_NUMBERS:
            raise CheckpointError(
                f"expected images of at most {MOST_NUMBERS:,} numbers, got {self.input_shape}"
            )

    def to_document(self) -> dict[str, Any]:
        """The preprocessing as plain JSON values."""
        return asdict(self)
