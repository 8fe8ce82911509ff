"""Searching the plan: space ──▶ strategy ──▶ plans ──judged on shared weights, priced──▶ the best one.

A strategy knows choices and scores; an evaluator knows networks and images; neither knows the other.
"""
