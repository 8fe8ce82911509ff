"""How sure an exit is: which number its graph computes as confidence. Routes say what becomes of it."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from s2dnas_deploy.errors import BundleError
from s2dnas_deploy.files.bounds import Above
from s2dnas_deploy.files.document import check_record

ConfidenceRule = Literal["max_prob", "margin", "entropy"]
RULES: tuple[ConfidenceRule, ...] = get_args(ConfidenceRule)


@dataclass(frozen=True, kw_only=True)
class Exit:
    """An answer's confidence: by which rule, at what temperature; whether its threshold was calibrated."""

    rule: ConfidenceRule
    temperature: Annotated[float, Above(0)] = 1.0
    calibrated: bool = False

    def __post_init__(self) -> None:
        check_record(self, BundleError)
