"""DOCCI (Onoe et al. 2024): the 5,000 pictures of its test split."""

from pathlib import Path

from finevit_eval.retrieval.protocols.reading import Captioned, cut_sentences, read_json_lines

LAYOUT = "DOCCI: docci_descriptions.jsonlines and images/*.jpg"


def descriptions(data: Path) -> Captioned:
    """Each picture with its whole description."""
    records = read_json_lines(data / "docci_descriptions.jsonlines", LAYOUT)
    return [
        (data / "images" / one["image_file"], [one["description"].strip()])
        for one in records
        if one["split"] == "test"
    ]


def sentences(data: Path) -> Captioned:
    """Each picture with the sentences of its description, as FLAIR cuts them for fine-grained retrieval."""
    return [(picture, cut_sentences(text)) for picture, (text,) in descriptions(data)]
