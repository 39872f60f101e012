"""Fault campaigns: many random faults, of which none may end in a traceback or lose anything.

    python -m tests.campaigns.images --trials 2000 --seed 0

Each prints the number of trials by outcome, their largest time and memory, and every failure; with
failures it exits with 1. A trial depends on the seed and its number only: `--first 17 --trials 1`
repeats one. They take from minutes to an hour and are not part of the test suite;
docs/robustness.md has the results.
"""
