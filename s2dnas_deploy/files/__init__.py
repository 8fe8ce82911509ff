"""Files from anyone's hands, read with suspicion, and files of our own, written whole or not at all.

Common ground below both wings: formats only, nothing of what is in them. Needs numpy at the most.
"""
