"""A frozen sentence encoder, which gives embeddings of texts and states of their words."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from hart import HartError

log = logging.getLogger(__name__)


class SentenceTeacher:
    """A frozen BERT-like sentence encoder: it returns the mean of the last states, normalised."""

    def __init__(self, source: str) -> None:
        """Raises `HartError` if `source` is no folder or package with a model that transformers can load."""
        from transformers import AutoModel
        from transformers import logging as transformers_logging

        folder = _teacher_folder(source)
        transformers_logging.disable_progress_bar()
        try:
            self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            self.model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
        except Exception as error:  # transformers and tokenizers raise many kinds
            raise HartError(f"{folder}: cannot be loaded as a teacher: {' '.join(str(error).split())}") from None
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(64)

    @property
    def pieces(self) -> list[str]:
        """The vocabulary in id order, which for word pieces is roughly the order of frequency."""
        vocabulary = self.tokenizer.get_vocab()
        return sorted(vocabulary, key=lambda piece: vocabulary[piece])

    @torch.no_grad()
    def states(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """ids and mask (B, s) -> normalised sentence embeddings (B, T) and last states (B, s, T)."""
        states = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return F.normalize(pooled, dim=-1), states

    def encode(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Return normalised sentence embeddings (B, T)."""
        return self.encode_words(texts, batch_size)[0]

    def encode_words(self, texts: Sequence[str], batch_size: int = 256) -> tuple[Tensor, Tensor, Tensor]:
        """Return sentence embeddings (B, T), word states (W, T), both float16, and each text's first word (B,).

        A word's state is the mean over its pieces; the words of text i start at row `first[i]`.
        """
        encodings = self.tokenizer.encode_batch(list(texts))
        words = [max((w for w in e.word_ids if w is not None), default=-1) + 1 for e in encodings]
        first = torch.tensor([0, *words]).cumsum(0)
        width = self.model.config.hidden_size
        sentences = torch.empty(len(texts), width, dtype=torch.float16)
        states = torch.empty(int(first[-1]), width, dtype=torch.float16)
        order = sorted(range(len(texts)), key=lambda i: len(encodings[i].ids))
        for start in range(0, len(order), batch_size):
            chunk = order[start : start + batch_size]
            ids = pad_sequence([torch.tensor(encodings[i].ids) for i in chunk], batch_first=True)
            lengths = torch.tensor([len(encodings[i].ids) for i in chunk])
            sentence, state = self.states(ids, torch.arange(ids.shape[1]) < lengths[:, None])
            sentences[chunk] = sentence.half()
            rows, positions = [], []
            for row, i in enumerate(chunk):
                for column, word in enumerate(encodings[i].word_ids):
                    if word is not None:
                        rows.append(int(first[i]) + word)
                        positions.append(row * ids.shape[1] + column)
            unique, inverse, count = torch.tensor(rows).unique(return_inverse=True, return_counts=True)
            sums = torch.zeros(len(unique), width).index_add_(0, inverse, state.flatten(0, 1)[positions])
            states[unique] = (sums / count[:, None]).half()
            if start // batch_size % 100 == 0:
                log.info("teacher: %d of %d texts", start, len(texts))
        return sentences, states, first[:-1]


def _teacher_folder(source: str) -> Path:
    if Path(source).is_dir():
        return Path(source)
    import importlib.util

    spec = importlib.util.find_spec(source) if source.isidentifier() else None
    if spec is None or spec.origin is None:
        raise HartError(f"teacher {source!r}: neither a folder nor an installed package; install it or give a folder")
    return Path(spec.origin).parent / "model"
