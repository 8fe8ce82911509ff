"""Searching the plan: space ──▶ strategy ──▶ plans ──judged on shared weights, priced──▶ the best one.

    space        which plans there are, as choices from short menus
    strategies   which of them to ask about next
    judging      what a plan's exits get right, on shared weights or after a short training

A strategy knows choices and scores; an evaluator knows networks and images; neither knows the other.
"""
