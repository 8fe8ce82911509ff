"""Preprocessing: how the pixels of an image become the numbers that a network reads.

Part of the bridge: training writes it into `model.pt`, and the device must do exactly the same.

    x[c] = (pixel[c] / 255 - mean[c]) / std[c]
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from s2dnas_deploy.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Shape [C, H, W], per-channel mean and std of pixels scaled to 0..1, and how images are resized."""

    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str | None = None

    def __post_init__(self) -> None:
        if len(self.input_shape) != 3 or min(self.input_shape) < 1:
            raise CheckpointError(f"expected an input shape (C, H, W), got {self.input_shape}")
        channels = self.input_shape[0]
        if len(self.mean) != channels or len(self.std) != channels:
            raise CheckpointError(
                f"expected a mean and a std for each of {channels} channels, got {len(self.mean)} and "
                f"{len(self.std)}"
            )
        if not all(value > 0 for value in self.std):
            raise CheckpointError(f"expected every std above 0, got {self.std}")
        if self.resize not in (None, "crop", "stretch"):
            raise CheckpointError(f"expected resize to be crop, stretch or nothing, got {self.resize!r}")

    def to_document(self) -> dict[str, Any]:
        """The preprocessing as plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> "Preprocessing":
        """Read what `to_document` wrote."""
        try:
            return Preprocessing(
                input_shape=tuple(int(size) for size in document["input_shape"]),  # type: ignore[arg-type]
                mean=tuple(float(value) for value in document["mean"]),
                std=tuple(float(value) for value in document["std"]),
                resize=document["resize"],
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"the preprocessing is malformed: {error!r}") from error
