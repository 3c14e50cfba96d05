# Copyright 2026 The FineViT project. Licensed under the Apache License, Version 2.0.
"""The tokens a FineViT-VL reads and writes, and a Qwen tokenizer built without the network.

The merge ranks ship inside the Apache-2.0 package `dashscope` as `resources/qwen.tiktoken`; regex, normaliser and
byte level follow transformers' `Qwen2Converter`, ids and flags of the added tokens follow Qwen3's `tokenizer.json`.
"""

import base64
import importlib.util
from itertools import pairwise
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from finecap.boxes import BOX_END_TOKEN, BOX_START_TOKEN, OBJECT_REF_END_TOKEN, OBJECT_REF_START_TOKEN

IMAGE_TOKEN = "<|image_pad|>"
VISION_START_TOKEN = "<|vision_start|>"
VISION_END_TOKEN = "<|vision_end|>"
CHAT_START_TOKEN = "<|im_start|>"
CHAT_END_TOKEN = "<|im_end|>"
PAD_TOKEN = "<|endoftext|>"

# Qwen3's added tokens in id order; in the full vocabulary they start at id 151643.
SPECIAL_TOKENS = (
    PAD_TOKEN,
    CHAT_START_TOKEN,
    CHAT_END_TOKEN,
    OBJECT_REF_START_TOKEN,
    OBJECT_REF_END_TOKEN,
    BOX_START_TOKEN,
    BOX_END_TOKEN,
    "<|quad_start|>",
    "<|quad_end|>",
    VISION_START_TOKEN,
    VISION_END_TOKEN,
    "<|vision_pad|>",
    IMAGE_TOKEN,
    "<|video_pad|>",
)
# Added tokens that Qwen3 marks as ordinary text (`special: false`): they survive `skip_special_tokens=True`.
PLAIN_ADDED_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
QWEN_NUM_RANKS = 151_643
NUM_BYTES = 256

_REQUIRED_TOKENS = (
    CHAT_START_TOKEN,
    CHAT_END_TOKEN,
    VISION_START_TOKEN,
    VISION_END_TOKEN,
    IMAGE_TOKEN,
    OBJECT_REF_START_TOKEN,
    OBJECT_REF_END_TOKEN,
    BOX_START_TOKEN,
    BOX_END_TOKEN,
)
_SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def build_qwen_tokenizer(num_ranks: int | None = None) -> PreTrainedTokenizerFast:
    """Build Qwen's byte-level BPE tokenizer from the ranks in the `dashscope` package (about 3 s for all of them).

    Args:
        num_ranks: number of lowest merge ranks to keep, 256 to 151,643; the 26 added tokens follow them, so the
            tokenizer has `num_ranks + 26` entries. Ranks are ordered by merge, so any prefix is itself a lossless
            byte-level BPE. `None` keeps all and reproduces the ids of Qwen2.5 and Qwen3.

    Returns:
        A tokenizer that pads on the left (decoder-only generation), ends a turn with `<|im_end|>` and returns
        `input_ids` and `attention_mask`.

    Raises:
        ValueError: `num_ranks` is out of range.
        ImportError: `dashscope` is not installed.
    """
    num_ranks = QWEN_NUM_RANKS if num_ranks is None else num_ranks
    if not NUM_BYTES <= num_ranks <= QWEN_NUM_RANKS:
        raise ValueError(
            f"num_ranks={num_ranks} is not possible: a lossless byte-level vocabulary needs between {NUM_BYTES} "
            f"(the single bytes) and {QWEN_NUM_RANKS} (all of Qwen's ranks) entries."
        )
    ranks = _read_ranks(num_ranks)
    to_unicode = _bytes_to_unicode()

    def as_text(token: bytes) -> str:
        return "".join(to_unicode[byte] for byte in token)

    vocab = {as_text(token): rank for token, rank in ranks.items()}
    merges = [
        (as_text(left), as_text(right))
        for left, right in (_split_into_pair(token, rank, ranks) for token, rank in ranks.items() if len(token) > 1)
    ]
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=merges, fuse_unk=False, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT_PATTERN), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in PLAIN_ADDED_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=CHAT_END_TOKEN,
        pad_token=PAD_TOKEN,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=131_072,
        clean_up_tokenization_spaces=False,
    )


def add_missing_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Add, in place, what a FineViT-VL needs and `tokenizer` lacks: image, box and ChatML tokens, and a pad token.

    The end of sequence becomes `<|im_end|>`, with which the chat template ends every turn.

    Returns:
        The tokens that were added; the language model's embedding must grow to hold them.
    """
    known = tokenizer.get_vocab()
    missing = [token for token in _REQUIRED_TOKENS if token not in known]
    if tokenizer.pad_token is None and PAD_TOKEN not in known:
        missing.append(PAD_TOKEN)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in missing])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = PAD_TOKEN
    tokenizer.eos_token = CHAT_END_TOKEN
    return missing


def _read_ranks(num_ranks: int) -> dict[bytes, int]:
    # The package itself is not imported: that would pull in an HTTP client for one data file.
    spec = importlib.util.find_spec("dashscope")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("Qwen's merge ranks ship inside the package `dashscope`: pip install dashscope")
    path = Path(spec.submodule_search_locations[0]) / "resources" / "qwen.tiktoken"
    ranks = {}
    with path.open("rb") as lines:
        for line in lines:
            token, rank = line.split()
            if int(rank) >= num_ranks:
                break
            ranks[base64.b64decode(token)] = int(rank)
    return ranks


def _split_into_pair(token: bytes, rank: int, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The merge that made `token`: what BPE leaves of its bytes when only lower ranks may merge."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pair_ranks = [ranks.get(left + right, rank) for left, right in pairwise(parts)]
        lowest = min(range(len(pair_ranks)), key=pair_ranks.__getitem__)
        parts[lowest : lowest + 2] = [parts[lowest] + parts[lowest + 1]]
    return parts[0], parts[1]


def _bytes_to_unicode() -> dict[int, str]:
    """GPT-2's printable stand-in for every byte: printable Latin-1 as it is, the rest from code point 256 up."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(NUM_BYTES) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(NUM_BYTES + i) for i, byte in enumerate(others)}
