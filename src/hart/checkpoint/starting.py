"""What training starts from: tokenizers in every layout, and the check that sizes fit."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from hart.checkpoint.loading import load_model, resolve_model
from hart.checkpoint.storage import CONFIG_FILE, HART_FILE, TOKENIZER_FILE, load_module, save_module
from hart.config import Config, ConfigError, TokenizerConfig
from hart.files import user_path, write_text
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer


def save_tokenizer(folder: Path, tokenizer: HybridTokenizer) -> None:
    """Write a tokenizer alone; the configuration last, as `save_model` does."""
    save_module(folder / TOKENIZER_FILE, tokenizer)
    write_text(folder / CONFIG_FILE, tokenizer.config.to_json())


def load_tokenizer(name: str | Path) -> HybridTokenizer:
    """A tokenizer in evaluation mode: one that `save_tokenizer` wrote, or that of any model (`resolve_model`).

    Raises `CheckpointError` or `ConfigError`.
    """
    folder = user_path(name)
    alone = (folder / CONFIG_FILE).exists() and not (folder / HART_FILE).exists() and not (folder / "llm").is_dir()
    if not alone:
        return load_model(resolve_model(str(name))).tokenizer
    tokenizer = HybridTokenizer(TokenizerConfig.load(folder / CONFIG_FILE))
    load_module(folder / TOKENIZER_FILE, tokenizer)
    return tokenizer.eval()


def over_scales(tokenizer: HybridTokenizer, scales: tuple[int, ...]) -> HybridTokenizer:
    """The same weights for other scales, in evaluation mode; the last scale decides the image size."""
    other = HybridTokenizer(tokenizer.config.replace(scales=scales))
    other.load_state_dict(tokenizer.state_dict())
    return other.eval()


def same_sizes(source: str, theirs: Config, ours: Config, *, besides: Set[str]) -> None:
    """Raise `ConfigError` naming the fields in which a source's configuration differs from the recipe's."""
    there, here = theirs.to_dict(), ours.to_dict()
    differing = [name for name in here if name not in besides and there[name] != here[name]]
    if differing:
        shown = ", ".join(f"{name} is {there[name]} there and {here[name]} in the recipe" for name in differing)
        raise ConfigError(f"init_from {source}: {type(ours).__name__} differs: {shown}")
