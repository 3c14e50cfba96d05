"""Stage III, alignment with a language model: the parts of `vl_sft`, and the aligned encoder as a model of its own."""

from finevit_training.stages.sft import stage as sft

STAGE = sft.STAGE._replace(name="align", card="align.md", folders={"encoder": "model.vision_tower"})
