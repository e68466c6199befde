"""Evaluation suites of the emoji set, and how drawings follow words for colours, grounds and counts."""
