"""THE list of published test sets for retrieval. One reader and one entry here add another. Loads nothing heavy."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from finevit_eval.retrieval.protocols import coco2017, dci, docci, iiw, karpathy, share4v, urban1k
from finevit_eval.retrieval.protocols.reading import Captioned


@dataclass(frozen=True)
class Protocol:
    """A published test set and what papers do with its texts.

    Attributes:
        suite: Test sets of one folder; the suite's name stands for all of them.
        title: For people.
        layout: What the folder holds, for people.
        pictures: How many there are, as published.
        read: Reads the folder. Raises ValueError where it has another layout.
    """

    suite: str
    title: str
    layout: str
    pictures: int
    read: Callable[[Path], Captioned]


PROTOCOLS = {
    "dci": Protocol("dci", "DCI, short and extra captions", dci.LAYOUT, 7_805, dci.short_and_extra),
    "dci_extra": Protocol("dci", "DCI, extra captions", dci.LAYOUT, 7_805, dci.extra),
    "docci": Protocol("docci", "DOCCI", docci.LAYOUT, 5_000, docci.descriptions),
    "docci_sentences": Protocol("docci", "DOCCI, sentences", docci.LAYOUT, 5_000, docci.sentences),
    "urban1k": Protocol("urban1k", "Urban-1k", urban1k.LAYOUT, 1_000, urban1k.first_lines),
    "iiw": Protocol("iiw", "ImageInWords", iiw.LAYOUT, 612, iiw.descriptions),
    "share4v_1k": Protocol("share4v", "ShareGPT4V-1k", share4v.LAYOUT, 1_000, share4v.first_1k),
    "share4v_10k": Protocol("share4v", "ShareGPT4V-10k", share4v.LAYOUT, 10_000, share4v.first_10k),
    "coco": Protocol("coco", "COCO, Karpathy's test", karpathy.COCO, 5_000, karpathy.coco),
    "coco2017": Protocol("coco2017", "COCO val2017", coco2017.LAYOUT, 5_000, coco2017.first_five),
    "flickr30k": Protocol("flickr30k", "Flickr30k, Karpathy's test", karpathy.FLICKR30K, 1_000, karpathy.flickr30k),
}
