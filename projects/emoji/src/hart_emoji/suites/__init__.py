"""Evaluation suites of the emoji set, and of how images follow words for colours, backgrounds and counts."""
