"""Names of the figures that passes count (`Context.counters`) and that others read."""

PROMPT_TOKENS = "prompt tokens"
COMPLETION_TOKENS = "completion tokens"
# A live row of the pack pass that becomes no record; status and card count it among the rejects.
NOTHING_TO_SAY = "rejected: nothing to say"
