"""Small real tokenizers, one for each way in which published language models cut text: trained on a few sentences,
with the normalizers, pre-tokenizers, byte fallback and first tokens of the originals.
"""

import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from finevit_vl import FineViTVLProcessor
from finevit_vl.tokenizer import add_missing_tokens
from modeling_finevit import FineViTImageProcessorPil

TEXT = [
    "user assistant system What is the total? Answer the question using a single word or phrase.",
    "Locate the text. What is written in the box? Describe the image. Transcribe all text in reading order.",
    "a red cat, a blue dog and 12 green birds at the top left of the picture: 0 1 2 3 4 5 6 7 8 9",
] * 4
LLAMA_3_SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level(bos: str | None, split: str | None) -> PreTrainedTokenizerFast:
    """GPT-2's and Llama 3's kind: bytes as letters, line breaks may merge with each other."""
    tokenizer = Tokenizer(BPE())
    cut = [pre_tokenizers.Split(Regex(split), "isolated")] if split else []
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*cut, level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    text = [*TEXT, "\n\n\n \n" * 9]
    tokenizer.train_from_iterator(text, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet))
    return finished(tokenizer, bos, "<|end|>")


def sentence_piece(
    bos: str | None, normalizer: normalizers.Normalizer | None, pre_tokenizer: pre_tokenizers.PreTokenizer | None
) -> PreTrainedTokenizerFast:
    """Llama 2's, Mistral's and Gemma's kind: "▁" for spaces, unknown characters (line breaks too) as single bytes."""
    learner = Tokenizer(BPE(unk_token="<unk>"))
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"]))
    learned = json.loads(learner.to_str())["model"]
    vocab = {token: place for place, token in enumerate(["<unk>", *BYTES])}
    for token in learned["vocab"]:
        vocab.setdefault(token, len(vocab))
    merges = [tuple(pair) for pair in learned["merges"]]
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return finished(tokenizer, bos, "</s>")


def finished(tokenizer: Tokenizer, bos: str | None, eos: str) -> PreTrainedTokenizerFast:
    specials = [token for token in (bos, eos) if token]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in specials])
    if bos:
        first = (bos, tokenizer.token_to_id(bos))
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[first])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)


def spaces() -> normalizers.Normalizer:
    return normalizers.Replace(" ", "▁")


FAMILIES = {
    "byte-level (GPT-2)": lambda: byte_level(None, None),
    "byte-level with BOS (Llama 3)": lambda: byte_level("<|begin_of_text|>", LLAMA_3_SPLIT),
    "prepended space with BOS (Llama 2)": lambda: sentence_piece(
        "<s>", normalizers.Sequence([normalizers.Prepend("▁"), spaces()]), None
    ),
    "Metaspace with BOS (Mistral v1)": lambda: sentence_piece(
        "<s>", None, pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    ),
    "no first space, with BOS (Gemma)": lambda: sentence_piece(
        "<bos>", spaces(), pre_tokenizers.Split(" ", "merged_with_previous")
    ),
}


def processor_of(family: str) -> FineViTVLProcessor:
    """A processor with this family's tokenizer, grown as for a FineViT-VL."""
    tokenizer = FAMILIES[family]()
    add_missing_tokens(tokenizer)
    return FineViTVLProcessor(FineViTImageProcessorPil(), tokenizer)
