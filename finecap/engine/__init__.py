"""The caption engine: from images to FineCap records, pass by pass, shard by shard.

`recipe` says what is done, `pipeline` in which order, `contract` what a pass is; `command` is `finevit caption`.

- `passes`: one module for each pass.
- `captioners`: asking vision-language models over HTTP: prompts, retries, prices.
- `detectors`: boxes of phrases, from a model in this process, a served one, or a captioner.
- `reading`: what the pixels of a picture say: lines of text, bars, colours at a box.
- `language`: what the words of a caption say: faults, phrases, numbers, colour words.
- `running`: how one pass over one shard becomes a file, in which order, and the executors that do it.
- `reporting`: status, price, statistics, and the published dataset with its card and gallery.

Source of the passes: FineViT (arXiv 2603.17326), section on FineCap-450M.
"""
