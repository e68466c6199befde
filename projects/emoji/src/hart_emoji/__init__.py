"""How the emoji model that ships with hart is made: its data, its text encoder, its training, its evaluation.

It uses only hart's public modules, so it also shows how to build a model with hart.
"""

from pathlib import Path

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
"""Recipes and prompts; they are found because the project runs from a clone."""
