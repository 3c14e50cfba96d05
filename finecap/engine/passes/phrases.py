"""Pass 5: noun phrases of the global caption (FineViT, step 3 of its data pipeline; spaCy is our choice for it)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import tee
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from finecap.engine.contract import Context, Row
from finecap.engine.language.noun_rules import DETERMINERS, PRONOUNS, rule_chunks, word_set
from finecap.errors import StopRun

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

COLUMNS = pa.schema(
    [
        ("phrases", pa.list_(pa.struct([("text", pa.string()), ("label", pa.string())]))),  # label: lemma of the head
        ("phrase_extractor", pa.string()),
    ]
)
RULES = "rules 1"
# What a caption speaks of but no detector can put a box around: the picture itself, its parts, its mood.
UNBOXABLE = word_set(
    """
    image picture photo photograph shot view scene background foreground setting composition perspective
    angle focus depth center centre middle left right top bottom side corner edge front back rear end
    distance position space lighting atmosphere mood ambiance ambience style tone color colour hue shade contrast
    texture detail sense feeling impression effect focal overall kind type sort variety range series number amount
    pair lot group set row part portion piece bit way time day addition contrast appearance presence theme
    subject emphasis clarity quality resolution caption description text something anything nothing everything
    someone anyone everyone one other another each
    """
)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options:
    """What finds the phrases.

    Attributes:
        model: spaCy pipeline, by package name or folder; None for the plain rules, which the record then says.
    """

    model: str | None = None


class Phrase(NamedTuple):
    """`text` of a noun phrase, lower-cased, and `label`, the lemma of its head."""

    text: str
    label: str


def run(rows: Iterator[Row], options: Options, context: Context) -> Iterable[Row]:
    """Noun phrases in the order of the caption, each once. Counts "phrases" and "captions without phrases"."""
    if options.model is None:
        extractor, found = RULES, ((row["key"], rule_phrases(row["global_caption"] or "")) for row in rows)
    else:
        model = options.model
        nlp = context.load(f"spacy {model}", lambda: load_spacy(model))
        extractor, found = spacy_name(nlp), _spacy_rows(nlp, rows)
    for key, phrases in found:
        context.counters["phrases"] += len(phrases)
        context.counters["captions without phrases"] += not phrases
        yield {
            "key": key,
            "phrases": [phrase._asdict() for phrase in phrases],
            "phrase_extractor": extractor,
            "reject": None,
        }


def rule_phrases(caption: str) -> list[Phrase]:
    """Noun phrases by plain rules, for when there is no spaCy model; see `noun_rules`."""
    return _selected((list(chunk.words), chunk.lemma) for chunk in rule_chunks(caption))


def spacy_phrases(doc: Doc) -> list[Phrase]:
    """Noun phrases of a parsed caption.

    Raises:
        StopRun: the pipeline that made `doc` has no parser.
    """
    try:
        chunks = list(doc.noun_chunks)
    except ValueError as error:
        raise StopRun(
            "the spaCy pipeline of the phrases section has no parser, which noun phrases need; name a whole one, for "
            "instance en_core_web_sm"
        ) from error
    kept = [chunk for chunk in chunks if chunk.root.pos_ != "PRON"]
    return _selected(
        ([token.lower_ for token in chunk if not token.is_space], (chunk.root.lemma_ or chunk.root.text).lower())
        for chunk in kept
    )


def load_spacy(model: str) -> Language:
    """A spaCy pipeline by package name or folder.

    Raises:
        StopRun: spaCy or the pipeline is not there; the message says how to get it.
    """
    try:
        import spacy
    except ImportError as error:
        raise StopRun("phrases.model needs spaCy: pip install 'finevit[engine]'") from error
    try:
        return spacy.load(model, exclude=["ner"])
    except OSError as error:
        raise StopRun(
            f"phrases.model: no spaCy pipeline {model!r}, neither a package nor a folder. Install it with "
            f"'python -m spacy download {model}' (or pip install its wheel), name the folder of a pipeline, or leave "
            "phrases.model out for the plain rules"
        ) from error


def spacy_name(nlp: Language) -> str:
    """What the record calls the extractor, for instance "spacy en_core_web_sm 3.8.0"."""
    return f"spacy {nlp.meta['lang']}_{nlp.meta['name']} {nlp.meta['version']}"


def _spacy_rows(nlp: Language, rows: Iterator[Row]) -> Iterator[tuple[str, list[Phrase]]]:
    captions, keys = tee((row["key"], row["global_caption"] or "") for row in rows)
    docs = nlp.pipe((caption for _, caption in captions), batch_size=32)
    for (key, _), doc in zip(keys, docs, strict=True):
        yield key, spacy_phrases(doc)


def _selected(chunks: Iterable[tuple[list[str], str]]) -> list[Phrase]:
    """Without what comes before the noun phrase proper, without what no detector can find, each once."""
    found: dict[str, Phrase] = {}
    for tokens, label in chunks:
        while tokens and (tokens[0] in DETERMINERS or not tokens[0][0].isalnum()):
            tokens = tokens[1:]
        while tokens and not tokens[-1][-1].isalnum():
            tokens = tokens[:-1]
        if not tokens or label in UNBOXABLE or label in PRONOUNS or not any(c.isalpha() for c in label):
            continue
        text = _joined(tokens)
        found.setdefault(text, Phrase(text, label))
    return list(found.values())


def _joined(tokens: list[str]) -> str:
    text = " ".join(tokens)
    for mark in ("'s", "’s", "-", "'", "/"):
        text = text.replace(f" {mark} ", f"{mark} " if "s" in mark else mark)
    return text
