"""Learns the demo's two vocabularies, CLIP's and T5's, from the captions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from flux_tools.demo.text import UNKNOWN

FILE = "tokenizers.json"
#: Largest size of each vocabulary.
VOCABULARY = 2048


def read_tokenizers(run: Path) -> dict[str, str]:
    """Return the vocabularies that `keep_tokenizers` stored for this run."""
    files: dict[str, str] = json.loads((run / FILE).read_text())
    return files


def keep_tokenizers(run: Path, captions: Iterable[str]) -> dict[str, str]:
    """Learn the vocabularies of a new run and store them; later calls return the stored ones.

    Learning them again would change the ids of some pieces.
    """
    if not (run / FILE).exists():
        (run / FILE).write_text(json.dumps(learn_tokenizers(captions)))
    return read_tokenizers(run)


def learn_tokenizers(captions: Iterable[str]) -> dict[str, str]:
    """Return the vocabularies as JSON, by the names that `clip_tokenizer` and `t5_tokenizer` read."""
    corpus = sorted(captions)
    clip = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=UNKNOWN))
    clip.pre_tokenizer = pre_tokenizers.Whitespace()
    clip.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<|startoftext|>", "<|endoftext|>", UNKNOWN],
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    t5 = Tokenizer(models.Unigram())
    t5.normalizer = normalizers.Lowercase()
    t5.pre_tokenizer = pre_tokenizers.Metaspace()
    t5.train_from_iterator(
        corpus,
        trainers.UnigramTrainer(
            vocab_size=VOCABULARY, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
        ),
    )
    clip_model, t5_model = (json.loads(tokenizer.to_str())["model"] for tokenizer in (clip, t5))
    return {
        "clip.vocab": json.dumps(clip_model["vocab"]),
        "clip.merges": json.dumps(clip_model["merges"]),
        "t5.vocab": json.dumps(t5_model["vocab"]),
    }
