"""What --data holds for the evaluations of regions, for people."""

DENSE_RECORDS = "FineCap records with text in regions, or questions that count"
FG_OVD = "FG-OVD as FG-CLIP publishes it (1_attributes*.jsonl, ... and, as img_path names them, COCO's pictures)"
COCO = "COCO or LVIS (annotations/*.json and, as they name them, the pictures)"
REFCOCO = "RefCOCO, RefCOCO+ or RefCOCOg as lmms-lab publishes them (data/<split>-*.parquet)"
REF_L4 = "Ref-L4 as JierunChen publishes it (ref-l4-<split>.parquet, images.tar.gz or its content)"
