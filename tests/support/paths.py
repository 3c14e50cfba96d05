"""Where the checkout and what lies in it are."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
NANO = ROOT / "model_cards" / "finevit-vl-nano"
SFT_RECIPES = ROOT / "training_scripts" / "finevit_training" / "recipes" / "sft"
CAPTION_RECIPES = ROOT / "finecap" / "engine" / "recipes"
