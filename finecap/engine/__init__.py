"""The caption engine: from images to FineCap records, pass by pass, shard by shard.

`finecap.engine.recipe` says what is done, `finecap.engine.pipeline` in which order, `finecap.engine.running.one_shard`
how one pass over one shard becomes a file, and the executors where that happens. Source of the passes: FineViT
(arXiv 2603.17326), section on FineCap-450M.
"""
