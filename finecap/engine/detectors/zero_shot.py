"""Zero-shot object detection models of Transformers, run in this process."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from finecap.engine.detectors.detector import Detection
from finecap.errors import StopRun
from finecap.made_with import weight_hashes

# They read all phrases as one text in which full stops stand between them, and score each token of it.
TOKEN_SCORING = ("grounding-dino", "mm-grounding-dino")
# The full stop and the question mark end a phrase for Grounding DINO (`SPECIAL_TOKENS` in its modeling file); square
# brackets would let a caption write [SEP].
SEPARATORS = re.compile(r"[.?\[\]\s]+")


class Prompt(NamedTuple):
    """One text for Grounding DINO.

    Attributes:
        text: phrases with full stops between them.
        phrases: their indices into the phrases that were asked for.
        spans: where each stands in the text, from and up to a character.
    """

    text: str
    phrases: list[int]
    spans: list[tuple[int, int]]


class ZeroShotDetector:
    """A model and its processor, on the GPU if there is one, in float32: in half precision the sides of a box in a
    large picture move by pixels. One picture at a time, in a thread, so that the event loop lives; fast tokenizers do
    not bear two threads.
    """

    def __init__(self, model: Any, processor: Any, name: str, min_score: float) -> None:
        self.name = name
        self._model, self._processor, self._min_score = model, processor, min_score
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="detector")

    @classmethod
    def from_folder(cls, folder: Path, min_score: float) -> ZeroShotDetector:
        """Load a folder that `save_pretrained` of a model and of its processor wrote. Nothing is downloaded.

        Raises:
            StopRun: there is no such folder, it holds no zero-shot detector or no processor, torch or transformers is
                missing.
        """
        if not (folder / "config.json").is_file():
            raise StopRun(
                f"boxes.detector: {folder} holds no model (no config.json); expected the folder of a zero-shot object "
                "detector of Transformers, for instance a download of IDEA-Research/grounding-dino-base"
            )
        try:
            import torch
            from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

            processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
            model = AutoModelForZeroShotObjectDetection.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32
            )
        except (ImportError, OSError, ValueError) as error:
            raise StopRun(
                f"boxes.detector: {folder} cannot be loaded as a zero-shot object detector: {error}"
            ) from error
        model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        return cls(model, processor, f"{model.config.model_type} {folder.name} {_weights_hash(folder)}", min_score)

    async def detect(
        self, image: Image.Image, phrases: Sequence[str], min_score: float | None = None
    ) -> list[Detection]:
        """See `Detector.detect`; `min_score` in place of the one that was given at the start."""
        limit = self._min_score if min_score is None else min_score
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._find, image, phrases, limit)

    def _find(self, image: Image.Image, phrases: Sequence[str], min_score: float) -> list[Detection]:
        import torch

        asked = [(index, _clean(phrase)) for index, phrase in enumerate(phrases) if _clean(phrase)]
        if not asked:
            return []
        with torch.inference_mode():
            if self._model.config.model_type not in TOKEN_SCORING:
                return self._find_by_class(image, asked, min_score)
            return [
                found for prompt in self._prompts(asked) for found in self._find_by_token(image, prompt, min_score)
            ]

    def _find_by_class(self, image: Image.Image, asked: list[tuple[int, str]], min_score: float) -> list[Detection]:
        """Models that read every phrase by itself (OWL-ViT, OWLv2, OmDet-Turbo); phrases that are longer than their
        text tower reads (16 tokens for OWL-ViT) are cut.
        """
        inputs = self._processor(
            images=image,
            text=[[text for _, text in asked]],
            return_tensors="pt",
            text_kwargs={"truncation": True, "padding": "max_length"},
        )
        outputs = self._model(**inputs.to(self._model.device))
        # OmDet-Turbo's processor suppresses overlaps by itself; here the recipe says how.
        suppression = {"nms_threshold": 1.0} if self._model.config.model_type == "omdet-turbo" else {}
        found = self._processor.post_process_grounded_object_detection(
            outputs, threshold=min_score, target_sizes=[(image.height, image.width)], **suppression
        )[0]
        rows = zip(found["boxes"].tolist(), found["labels"].tolist(), found["scores"].tolist(), strict=True)
        return [Detection(tuple(box), asked[label][0], score) for box, label, score in rows]

    def _find_by_token(self, image: Image.Image, prompt: Prompt, min_score: float) -> list[Detection]:
        """Grounding DINO: a query's score for a phrase is that of the phrase's best token, and the query belongs to
        its best phrase. That is the box threshold of Grounding DINO's own demo; the processor's `text_labels` are not
        used, since they join tokens of several phrases, and cut phrases, wherever the text threshold happens to fall.
        """
        import torch

        inputs = self._processor(images=image, text=prompt.text, return_tensors="pt").to(self._model.device)
        outputs = self._model(**inputs)
        tokens = self._tokens(prompt)
        probabilities = outputs.logits[0].sigmoid()
        scores, phrases = torch.stack([probabilities[:, place].amax(-1) for place in tokens], -1).max(-1)
        center, sides = outputs.pred_boxes[0].split(2, -1)
        size = torch.tensor([image.width, image.height] * 2, device=scores.device)
        boxes = torch.cat([center - sides / 2, center + sides / 2], -1) * size
        keep = scores >= min_score
        rows = zip(boxes[keep].tolist(), phrases[keep].tolist(), scores[keep].tolist(), strict=True)
        return [Detection(tuple(box), prompt.phrases[phrase], score) for box, phrase, score in rows]

    def _tokens(self, prompt: Prompt) -> list[list[int]]:
        """The token positions of every phrase."""
        encoding = self._processor.tokenizer(prompt.text, return_offsets_mapping=True)
        offsets = encoding["offset_mapping"]
        return [
            [place for place, (start, stop) in enumerate(offsets) if first <= start < stop <= last]
            for first, last in prompt.spans
        ]

    def _prompts(self, asked: list[tuple[int, str]]) -> list[Prompt]:
        """As few texts as hold all phrases within the tokens that the model reads."""
        limit = self._model.config.max_text_len - 2  # [CLS] and [SEP]
        prompts: list[Prompt] = []
        used = limit
        for index, phrase in asked:
            phrase, length = self._cut(phrase, limit - 1)
            if not length:
                continue
            if used + length + 1 > limit:
                prompts.append(Prompt("", [], []))
                used = 0
            text, phrases, spans = prompts[-1]
            start = len(text) + bool(text)
            prompts[-1] = Prompt(
                f"{text} {phrase}.".lstrip(), [*phrases, index], [*spans, (start, start + len(phrase))]
            )
            used += length + 1
        return prompts

    def _cut(self, phrase: str, limit: int) -> tuple[str, int]:
        """As much of the phrase as fits into `limit` tokens, and how many it has."""
        encoding = self._processor.tokenizer(phrase, add_special_tokens=False, return_offsets_mapping=True)
        offsets = encoding["offset_mapping"][:limit]
        return (phrase[: offsets[-1][1]] if offsets else ""), len(offsets)


def _clean(phrase: str) -> str:
    return SEPARATORS.sub(" ", phrase).strip().lower()


def _weights_hash(folder: Path) -> str:
    return hashlib.sha256("\n".join(weight_hashes(folder).values()).encode()).hexdigest()[:12]
