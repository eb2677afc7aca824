"""Scores of label maps: one overlap table per image, and pure functions of it.

`table = overlap(pred, true)`, then for example `symmetric_best_dice(table)`; accumulators add up
a data set.
"""

from rlseg.metrics.accumulator import Accumulator, MetricSet
from rlseg.metrics.choice import OptionScores, best_option
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
from rlseg.metrics.overlap import Overlap, Pairs, overlap
from rlseg.metrics.partition import (
    AdaptedRand,
    Information,
    adapted_rand,
    adapted_rand_error,
    adjusted_rand_index,
    variation_of_information,
)

__all__ = [
    "Accumulator",
    "AdaptedRand",
    "AveragePrecision",
    "Conventions",
    "Coverage",
    "Detections",
    "FalseInstances",
    "ImageScores",
    "Information",
    "InstanceScores",
    "MetricSet",
    "OptionScores",
    "Overlap",
    "Pairs",
    "Panoptic",
    "Settings",
    "ThresholdRow",
    "adapted_rand",
    "adapted_rand_error",
    "adjusted_rand_index",
    "aji",
    "aji_plus",
    "average_precision",
    "best_dice",
    "best_option",
    "count_difference",
    "coverage",
    "detections",
    "false_instances",
    "fgbg_dice",
    "overlap",
    "panoptic",
    "panoptic_quality",
    "panoptic_row",
    "pooled_average_precision",
    "score_image",
    "scores_at_thresholds",
    "symmetric_best_dice",
    "variation_of_information",
]
