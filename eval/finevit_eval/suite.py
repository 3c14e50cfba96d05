"""THE list of evaluations. One entry here and one runner add another; nothing else names them.

A runner takes the names of those of its evaluations that were chosen, the model, the data, a folder for what it
exports, and the settings; it loads the model once. The module itself loads neither torch nor lmms-eval, so that the
command line can name the evaluations at once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from finevit_eval.model_kinds import DUAL, ENCODER, VISION_LANGUAGE
from finevit_eval.regions.layout_names import COCO, DENSE_RECORDS, FG_OVD, REF_L4, REFCOCO
from finevit_eval.result import Measured, Settings
from finevit_eval.retrieval.protocols.table import PROTOCOLS

RECORDS = "FineCap records"
"""In the Hub's layout (`data/<split>-*.parquet`), as `finevit corpus build` and `finevit caption` write them."""
HUB_FOLDERS = "a folder with datasets in folders named as on the Hub (lmms-lab-encoder/DocVQA)"
"""As lmms-eval's own tasks name them; what is not there is fetched."""
LABELLED = "pictures by class: an image folder (<split>/<class>/), ObjectNet, or a dataset with image and label"
Runner = Callable[[Sequence[str], str, Path | None, Path, Settings], Measured]


@dataclass(frozen=True)
class Evaluation:
    """One evaluation.

    Attributes:
        suite: What it belongs to; the suite's name stands for all of its evaluations.
        needs: The kinds of models that it can measure, see `finevit_eval.model_kinds`.
        data: What --data holds, for people; None of one that brings its data along.
        metric: Name of the headline score, 0-1.
        title: For people.
        runner: Measures a model.
    """

    suite: str
    needs: tuple[str, ...]
    data: str | None
    metric: str
    title: str
    runner: Runner


def _questions(names: Sequence[str], model: str, data: Path | None, out: Path, settings: Settings) -> Measured:
    from finevit_eval.questions.run import ask_questions

    return ask_questions(names, model, given(data), out, settings)


def _lmms_eval(names: Sequence[str], model: str, data: Path | None, out: Path, settings: Settings) -> Measured:
    from finevit_eval.questions.run import ask_published

    return ask_published(names, model, given(data), out, settings)


def _easyvqa(names: Sequence[str], model: str, data: Path | None, out: Path, settings: Settings) -> Measured:
    from finevit_eval.questions.run import ask_easyvqa

    return ask_easyvqa(names, model, out, settings)


def _retrieval(names: Sequence[str], model: str, data: Path | None, out: Path, settings: Settings) -> Measured:
    from finevit_eval.retrieval.run import retrieve

    return retrieve(names, model, given(data), out, settings)


def _zero_shot(names: Sequence[str], model: str, data: Path | None, out: Path, settings: Settings) -> Measured:
    from finevit_eval.zero_shot.run import classify

    return classify(names, model, given(data), out, settings)


def _probes(names: Sequence[str], model: str, data: Path | None, out: Path, settings: Settings) -> Measured:
    if find_spec("sklearn") is None:
        raise ValueError("Probes need scikit-learn; install the extra: pip install 'finevit[retrieval]'.")
    from finevit_eval.probes.run import probe

    return probe(names, model, given(data), out, settings)


def _published(names: Sequence[str], model: str, data: Path | None, out: Path, settings: Settings) -> Measured:
    from finevit_eval.retrieval.published_sets import retrieve_published

    return retrieve_published(names, model, given(data), out, settings)


def _region_answers(names: Sequence[str], model: str, data: Path | None, out: Path, settings: Settings) -> Measured:
    from finevit_eval.regions.by_answers import ask_about_regions

    return ask_about_regions(names, model, given(data), out, settings)


def _region_features(names: Sequence[str], model: str, data: Path | None, out: Path, settings: Settings) -> Measured:
    from finevit_eval.regions.by_features import compare_regions

    return compare_regions(names, model, given(data), out, settings)


def _offline(origin: str, by: Runner, inner: Mapping[str, str]) -> Runner:
    """A runner of its own for each set, so that one that cannot be fetched leaves the results of the others.

    Args:
        origin: The set.
        by: Measures FineCap records.
        inner: What each evaluation is called there.
    """

    def run(names: Sequence[str], model: str, data: Path | None, out: Path, settings: Settings) -> Measured:
        from finevit_eval.offline.run import measure_set

        return measure_set(origin, by, {name: inner[name] for name in names}, model, out, settings)

    return run


def given(data: Path | None) -> Path:
    """The data of an evaluation that takes some; that there are some was checked before."""
    assert data is not None
    return data


_VL, _DUAL = (VISION_LANGUAGE,), (DUAL,)
_SEEING = (ENCODER, DUAL, VISION_LANGUAGE)
_EMOJI = _offline("emoji", _retrieval, {"emoji_t2i": "t2i_short", "emoji_i2t": "i2t_short"})
_STAMPS = _offline("stamps", _retrieval, {"stamps_t2i": "t2i_short", "stamps_i2t": "i2t_short"})
_PDF = _offline("pdf", _region_answers, {"pdf_words": "box_to_ocr", "pdf_boxes": "ocr_to_box"})
_PHOTO = _offline("photo", _region_answers, {"photo_words": "box_to_ocr"})
EVALUATIONS = {
    "doc": Evaluation("questions", _VL, RECORDS, "anls", "Documents", _questions),
    "chart": Evaluation("questions", _VL, RECORDS, "relaxed_accuracy", "Charts", _questions),
    "grounding": Evaluation("questions", _VL, RECORDS, "acc@0.5", "Grounding", _questions),
    "easyvqa": Evaluation("questions", _VL, RECORDS, "accuracy", "easy-vqa", _questions),
    "docvqa_val": Evaluation("lmms_eval", _VL, HUB_FOLDERS, "anls", "DocVQA", _lmms_eval),
    "infovqa_val": Evaluation("lmms_eval", _VL, HUB_FOLDERS, "anls", "InfographicVQA", _lmms_eval),
    "chartqa": Evaluation("lmms_eval", _VL, HUB_FOLDERS, "relaxed_accuracy", "ChartQA", _lmms_eval),
    "textvqa_val": Evaluation("lmms_eval", _VL, HUB_FOLDERS, "vqa_accuracy", "TextVQA", _lmms_eval),
    "ocrbench": Evaluation("lmms_eval", _VL, HUB_FOLDERS, "accuracy", "OCRBench", _lmms_eval),
    "refcoco_bbox_rec_val": Evaluation("lmms_eval", _VL, HUB_FOLDERS, "acc@0.5", "RefCOCO val", _lmms_eval),
    "refcoco_bbox_rec_test": Evaluation("lmms_eval", _VL, HUB_FOLDERS, "acc@0.5", "RefCOCO test", _lmms_eval),
    "refcoco_bbox_rec_testA": Evaluation("lmms_eval", _VL, HUB_FOLDERS, "acc@0.5", "RefCOCO testA", _lmms_eval),
    "refcoco_bbox_rec_testB": Evaluation("lmms_eval", _VL, HUB_FOLDERS, "acc@0.5", "RefCOCO testB", _lmms_eval),
    "refcoco+_bbox_rec_val": Evaluation("lmms_eval", _VL, HUB_FOLDERS, "acc@0.5", "RefCOCO+ val", _lmms_eval),
    "refcoco+_bbox_rec_testA": Evaluation("lmms_eval", _VL, HUB_FOLDERS, "acc@0.5", "RefCOCO+ testA", _lmms_eval),
    "refcoco+_bbox_rec_testB": Evaluation("lmms_eval", _VL, HUB_FOLDERS, "acc@0.5", "RefCOCO+ testB", _lmms_eval),
    "refcocog_bbox_rec_val": Evaluation("lmms_eval", _VL, HUB_FOLDERS, "acc@0.5", "RefCOCOg val", _lmms_eval),
    "refcocog_bbox_rec_test": Evaluation("lmms_eval", _VL, HUB_FOLDERS, "acc@0.5", "RefCOCOg test", _lmms_eval),
    "screenspot_rec_test": Evaluation("lmms_eval", _VL, HUB_FOLDERS, "acc@0.5", "ScreenSpot", _lmms_eval),
    "easyvqa_all": Evaluation("offline", _VL, None, "accuracy", "easy-vqa, whole", _easyvqa),
    "t2i_short": Evaluation("retrieval", _DUAL, RECORDS, "r@1", "Pictures by short captions", _retrieval),
    "i2t_short": Evaluation("retrieval", _DUAL, RECORDS, "r@1", "Short captions by pictures", _retrieval),
    "t2i_dense": Evaluation("retrieval", _DUAL, RECORDS, "r@1", "Pictures by dense captions", _retrieval),
    "i2t_dense": Evaluation("retrieval", _DUAL, RECORDS, "r@1", "Dense captions by pictures", _retrieval),
    "zero_shot": Evaluation("classification", _DUAL, LABELLED, "acc@1", "Zero-shot, one prompt", _zero_shot),
    "zero_shot_80": Evaluation("classification", _DUAL, LABELLED, "acc@1", "Zero-shot, 80 prompts", _zero_shot),
    "knn": Evaluation("probes", _SEEING, LABELLED, "acc@1", "Nearest neighbours", _probes),
    "linear": Evaluation("probes", _SEEING, LABELLED, "acc@1", "Linear probe", _probes),
    "attentive": Evaluation("probes", _SEEING, LABELLED, "acc@1", "Attentive probe", _probes),
    "emoji_t2i": Evaluation("offline", _DUAL, None, "r@1", "Emoji by their names", _EMOJI),
    "emoji_i2t": Evaluation("offline", _DUAL, None, "r@1", "Names of emoji", _EMOJI),
    "stamps_t2i": Evaluation("offline", _DUAL, None, "r@1", "Stamps by their captions", _STAMPS),
    "stamps_i2t": Evaluation("offline", _DUAL, None, "r@1", "Captions of stamps", _STAMPS),
    "pdf_words": Evaluation("offline", _VL, None, "read_exactly", "Text of a box on pages of manuals", _PDF),
    "pdf_boxes": Evaluation("offline", _VL, None, "acc@0.5", "Box of a text on pages of manuals", _PDF),
    "photo_words": Evaluation("offline", _VL, None, "read_exactly", "Text of a box on photographs", _PHOTO),
    **{
        f"{name}_{way}": Evaluation(one.suite, _DUAL, one.layout, "r@1", f"{one.title}: {found}", _published)
        for name, one in PROTOCOLS.items()
        for way, found in (("t2i", "pictures by texts"), ("i2t", "texts by pictures"))
    },
    **{
        f"fgovd_{level}": Evaluation("fgovd", _DUAL, FG_OVD, "accuracy", f"FG-OVD, {level}", _region_features)
        for level in ("hard", "medium", "easy", "trivial")
    },
    "box_classes": Evaluation("box_classes", _DUAL, COCO, "acc@1", "Classes of boxes", _region_features),
    "box_to_ocr": Evaluation("reading", _VL, DENSE_RECORDS, "read_exactly", "Text of a box", _region_answers),
    "ocr_to_box": Evaluation("reading", _VL, DENSE_RECORDS, "acc@0.5", "Box of a text", _region_answers),
    "counting": Evaluation("counting", _VL, DENSE_RECORDS, "accuracy", "Counting", _region_answers),
    "refcoco": Evaluation("refcoco", _VL, REFCOCO, "acc@0.5", "Referring expressions", _region_answers),
    "ref_l4": Evaluation("ref_l4", _VL, REF_L4, "acc@0.5", "Long referring expressions", _region_answers),
}
