"""A training loop of one's own: what a plan makes of a network, as a module to train, to save and to export.

    module + plan ──divide──▶ DynamicNetwork ──the user's loop──▶ save: model.pt, export: bundle

`divide` begins as `s2dnas-train` does, `DynamicNetwork` has what a loop needs, `handover` writes the result.
"""

from s2dnas_deploy.workshop.own_loop.dividing import divide
from s2dnas_deploy.workshop.own_loop.dynamic import DynamicNetwork

__all__ = ["DynamicNetwork", "divide"]
