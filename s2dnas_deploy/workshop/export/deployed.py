"""What a `model.pt` is deployed as: its stages as a chain, or its widths.

Place in the flow: `Model` ──▶ `StagedNetwork` ──▶ bundle, for the command and for loops of one's own.
"""

from collections.abc import Sequence

from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.workshop.export.chain import chain_of
from s2dnas_deploy.workshop.export.staged import StagedNetwork
from s2dnas_deploy.workshop.export.widths import widths_of
from s2dnas_deploy.workshop.network.model_file import Model


def deployed(
    model: Model, *, name: str, split: bool = True, blocks: bool = True, in_turn: Sequence[str] | None = None
) -> StagedNetwork:
    """The model's stages as a chain, or its widths: `in_turn`, or if that is None, as its plan says."""
    plan = model.network.division.plan
    if plan.nested:
        turns = (plan.width_names if plan.in_turn else ()) if in_turn is None else in_turn
        return widths_of(model, name=name, split=split, blocks=blocks, in_turn=turns)
    if in_turn is not None:
        raise OptionError(
            "--in-turn is for nested widths; this model has stages, which are a chain (s2dnas-train --plan "
            "in-turn:0.25,1 makes widths)"
        )
    return chain_of(model, name=name, split=split, blocks=blocks)
