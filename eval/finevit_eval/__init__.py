"""Judging FineViT-VL with lmms-eval: the model adapter, the tasks over FineCap records, receipts and the report."""
