"""`accelerate launch training_scripts/vl_sft.py --recipe sft/nano_cpu`: see `finevit_training.vl_sft`."""

import sys

from finevit_training.vl_sft import main

if __name__ == "__main__":
    sys.exit(main())
