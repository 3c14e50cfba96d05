"""`accelerate launch training_scripts/contrastive.py --recipe NAME`: see `finevit_training.contrastive`."""

import sys

from finevit_training.contrastive import main

if __name__ == "__main__":
    sys.exit(main())
