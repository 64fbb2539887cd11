"""Damaged files through every reader and command that reads them.

From the top folder of a checkout, for as long as you like:

    python -m tests.fuzz --seconds 600 --seed 1

File k of a seed is the same on every machine. `python -m tests.fuzz.stops` sends signals to
commands after many delays. What both check is in docs/reliability.md.
"""
