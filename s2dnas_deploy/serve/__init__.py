"""Serving: many callers, one process; survivors of many requests share a batch.

    caller ──ticket──▶ queue ──fairly──▶ worker (rooms with a clock) ──▶ answers on the ticket

The rooms are those that `Cascade.predict` and `stream` use. What a server speaks is for the modules beside
them to know; the service itself takes arrays.
"""
