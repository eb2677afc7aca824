"""Scores of label maps: one overlap table per image, and pure functions of it.

`table = overlap(pred, true)`, then for example `symmetric_best_dice(table)`; accumulators add up
a data set.
"""

from rlseg.metrics.accumulator import Accumulator, MetricSet
from rlseg.metrics.budget import (
    BudgetCurve,
    area_under_budget,
    common_range,
    compare_budgets,
    labels_to_reach,
    over_seeds,
)
from rlseg.metrics.choice import OptionScores, best_option
from rlseg.metrics.coco import (
    AREA_RANGES,
    COCO_MAX_DETS,
    PLACES_MAX_DETS,
    CocoScores,
    Detected,
    MaskPairs,
    Truths,
    coco_scores,
    keep_best,
)
from rlseg.metrics.coco_hotcoco import hotcoco_can, hotcoco_scores
from rlseg.metrics.coco_pairs import ImagePairs, dense_pairs, run_pairs, table_pairs
from rlseg.metrics.confusion import confusion_matrix
from rlseg.metrics.conventions import Conventions
from rlseg.metrics.detection import (
    AveragePrecision,
    Detections,
    Panoptic,
    ThresholdRow,
    average_precision,
    detections,
    panoptic,
    panoptic_quality,
    panoptic_row,
    pooled_average_precision,
    scores_at_thresholds,
)
from rlseg.metrics.image_scores import ImageScores, Settings, score_image
from rlseg.metrics.instance import (
    Coverage,
    FalseInstances,
    aji,
    aji_plus,
    best_dice,
    count_difference,
    coverage,
    false_instances,
    fgbg_dice,
    symmetric_best_dice,
)
from rlseg.metrics.instance_scores import InstanceScores
from rlseg.metrics.mask_average_precision import MaskAveragePrecision
from rlseg.metrics.overlap import Overlap, Pairs, merge_overlaps, overlap
from rlseg.metrics.partition import (
    AdaptedRand,
    Information,
    adapted_rand,
    adapted_rand_error,
    adjusted_rand_index,
    variation_of_information,
)
from rlseg.metrics.semantic import (
    SemanticImage,
    SemanticScores,
    absent_classes,
    accuracy_per_class,
    class_counts,
    class_entropy,
    class_entropy_norm,
    iou_per_class,
    mean_accuracy,
    mean_iou,
    pixel_accuracy,
)

__all__ = [
    "AREA_RANGES",
    "COCO_MAX_DETS",
    "PLACES_MAX_DETS",
    "Accumulator",
    "AdaptedRand",
    "AveragePrecision",
    "BudgetCurve",
    "CocoScores",
    "Conventions",
    "Coverage",
    "Detected",
    "Detections",
    "FalseInstances",
    "ImagePairs",
    "ImageScores",
    "Information",
    "InstanceScores",
    "MaskAveragePrecision",
    "MaskPairs",
    "MetricSet",
    "OptionScores",
    "Overlap",
    "Pairs",
    "Panoptic",
    "SemanticImage",
    "SemanticScores",
    "Settings",
    "ThresholdRow",
    "Truths",
    "absent_classes",
    "accuracy_per_class",
    "adapted_rand",
    "adapted_rand_error",
    "adjusted_rand_index",
    "aji",
    "aji_plus",
    "area_under_budget",
    "average_precision",
    "best_dice",
    "best_option",
    "class_counts",
    "class_entropy",
    "class_entropy_norm",
    "coco_scores",
    "common_range",
    "compare_budgets",
    "confusion_matrix",
    "count_difference",
    "coverage",
    "dense_pairs",
    "detections",
    "false_instances",
    "fgbg_dice",
    "hotcoco_can",
    "hotcoco_scores",
    "iou_per_class",
    "keep_best",
    "labels_to_reach",
    "mean_accuracy",
    "mean_iou",
    "merge_overlaps",
    "over_seeds",
    "overlap",
    "panoptic",
    "panoptic_quality",
    "panoptic_row",
    "pixel_accuracy",
    "pooled_average_precision",
    "run_pairs",
    "score_image",
    "scores_at_thresholds",
    "symmetric_best_dice",
    "table_pairs",
    "variation_of_information",
]
