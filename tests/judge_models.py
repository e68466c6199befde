"""Tiny random networks that judge images, as transformers stores them."""

from __future__ import annotations

import string
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BlipConfig,
    BlipForQuestionAnswering,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    PreTrainedTokenizerFast,
    SwinConfig,
)

from hart.evaluation.judges.objects import ALIASES, OBJECTS

_OTHER_NAMES = {name: alias for alias, name in ALIASES.items()}
LABELS = [_OTHER_NAMES.get(name, name) for name in sorted(OBJECTS)]
"""Classes as label files of published detectors name them."""
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[DEC]"]
PIECES = [*SPECIAL, *string.ascii_lowercase, *("##" + letter for letter in string.ascii_lowercase), "?", "-"]


def save_text_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        bos_token="[DEC]", model_max_length=60,
    ).save_pretrained(folder)  # fmt: skip


def save_detector(folder: Path) -> Path:
    torch.manual_seed(0)
    swin = SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=4, image_size=64,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=swin, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16,
        dim_feedforward=16, encoder_layers=1, decoder_layers=2, num_attention_heads=2, num_queries=8,
        id2label=dict(enumerate(LABELS)), label2id={label: i for i, label in enumerate(LABELS)},
    )  # fmt: skip
    Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    return folder


SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = SMALL | {"vocab_size": len(PIECES), "pad_token_id": 0}
VISION = SMALL | {"image_size": 16, "patch_size": 8}


def save_answerer(folder: Path) -> Path:
    torch.manual_seed(0)
    own = {"encoder_hidden_size": 16, "sep_token_id": 3, "projection_dim": 8}
    text = TEXT | own | {"max_position_embeddings": 64, "bos_token_id": 4, "eos_token_id": 3}
    BlipForQuestionAnswering(BlipConfig(text_config=text, vision_config=VISION, projection_dim=8)).save_pretrained(
        folder
    )
    save_text_tokenizer(folder)
    return folder
