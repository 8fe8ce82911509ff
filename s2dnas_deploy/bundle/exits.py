"""How sure an exit is: which number its graph computes as confidence. Routes say what becomes of it."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from s2dnas_deploy.errors import BundleError
from s2dnas_deploy.files.bounds import Above, Between
from s2dnas_deploy.files.document import check_record

ConfidenceRule = Literal["max_prob", "margin", "entropy"]
RULES: tuple[ConfidenceRule, ...] = get_args(ConfidenceRule)
USUAL_RULE: ConfidenceRule = "margin"
"""An image between two classes is what a later exit knows better; of five networks with exits, it let 3 to 6%
more of the images exit before the last at half a point below it than the largest probability did."""


@dataclass(frozen=True, kw_only=True)
class Exit:
    """An answer's confidence: by which rule, at what temperature; whether its threshold was calibrated.

    `probability_temperature` is not in the graph: what callers are told is p^(1/T), so that it adds up to 1.
    """

    rule: ConfidenceRule
    temperature: Annotated[float, Above(0)] = 1.0
    calibrated: bool = False
    probability_temperature: Annotated[float, Between(0.01, 100)] = 1.0

    def __post_init__(self) -> None:
        check_record(self, BundleError)
