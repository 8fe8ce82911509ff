"""Strategies: which plans to ask about next, given what was answered so far."""

from collections.abc import Mapping

from s2dnas_deploy.workshop.search.strategies import evolution, policy, random_search
from s2dnas_deploy.workshop.search.strategies.strategy import Judge, Strategy

STRATEGIES: Mapping[str, Strategy] = {
    "policy": policy.search,
    "evolution": evolution.search,
    "random": random_search.search,
}

__all__ = ["STRATEGIES", "Judge", "Strategy"]
