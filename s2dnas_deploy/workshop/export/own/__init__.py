"""Networks that bring exits, gates or widths of their own, as stages to export.

protocol ──▶ chain    stages() is a list: what a stage gives, the next one gets
         └─▶ named    stages() has names: tensors go by name, and routes() may say where samples go
"""
