"""How the emoji model that ships with hart is made: its data, its text encoder, its training, its evaluation.

It uses hart through its public modules only: an example of how to build a model with it.
"""

from pathlib import Path

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
"""Recipes and prompts of the project, which is run from a clone."""
