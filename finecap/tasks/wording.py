"""The words of every question that FineViT-VL is trained on and measured with, in one place.

The first group repeats lmms-eval 0.7.3 word for word (`docvqa_val`, `chartqa`, `refcoco_bbox_rec_*`), so that
training, the local tasks and the public benchmarks ask in the same way; a test compares them with the installed tasks.
The second group words the dense tasks of FineViT's third stage (global caption, box to text, text to box, box to OCR,
OCR to box).
"""

DOC_POST_PROMPT = "\nAnswer the question using a single word or phrase."
CHART_POST_PROMPT = "\nAnswer the question with a single word."
# easy-vqa has no lmms-eval task; it gets the suffix that lmms-eval's short-answer tasks share.
SHORT_ANSWER_POST_PROMPT = DOC_POST_PROMPT
GROUNDING_PRE_PROMPT = (
    "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, bottom-right y). "
    "All values are floating point numbers bounded between 0 and 1. "
    "Please provide the bounding box coordinate of the region this sentence describes: "
)

TRANSCRIBE = "Transcribe all text in reading order."
OCR_BOXES = "Transcribe all text line by line, each line with its box."
TEXT_TO_BOX = 'Locate the text "{text}".'
BOX_TO_TEXT = "What is written in {box}?"
BOX_TO_CAPTION = "Describe {box}."
GLOBAL_CAPTION = "Describe the image."

# The kinds of question that a record's `qa` may hold; `question_prompt` words them.
QA_KINDS = ("doc", "chart", "grounding", "easyvqa", "attribute", "count", "relation", "transcribe", "caption")

# What stays the same in every prompt above, for tokenizers of tiny models that spend one token on each.
FIXED_SENTENCES = (
    DOC_POST_PROMPT,
    CHART_POST_PROMPT,
    GROUNDING_PRE_PROMPT,
    TRANSCRIBE,
    OCR_BOXES,
    'Locate the text "',
    "What is written in ",
    "Describe ",
    GLOBAL_CAPTION,
)


def question_prompt(kind: str, question: str) -> str:
    """The user's turn for a question of a FineCap record.

    Args:
        kind: the `kind` of the record's qa item; "doc", "chart" and "grounding" get the words of lmms-eval's
            `docvqa_val`, `chartqa` and `refcoco_bbox_rec_*`, "transcribe" and "caption" are asked as they stand, every
            other kind is a short-answer question.
        question: the question, or for "grounding" the referring expression alone.
    """
    if kind == "grounding":
        return GROUNDING_PRE_PROMPT + question
    if kind == "chart":
        return question + CHART_POST_PROMPT
    if kind in ("transcribe", "caption"):
        return question
    return question + (DOC_POST_PROMPT if kind == "doc" else SHORT_ANSWER_POST_PROMPT)
