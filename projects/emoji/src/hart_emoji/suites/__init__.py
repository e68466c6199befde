"""Evaluation suites of the emoji set, and how images follow words for colours, backgrounds and counts."""
