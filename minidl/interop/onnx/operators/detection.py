"""Boxes and regions: non-maximum suppression and pooling of regions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import ops
from minidl.interop.onnx.operators.conv import bilinear
from minidl.interop.onnx.registry import operator


def _corners(boxes: np.ndarray, center_point_box: int) -> np.ndarray:
    """Boxes as (top, left, bottom, right), whichever corners they were given by."""
    if center_point_box:
        x, y, w, h = boxes.T
        return np.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], 1)
    first, second = boxes[:, :2], boxes[:, 2:]
    return np.concatenate([np.minimum(first, second), np.maximum(first, second)], 1)


def _overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of one box with others."""
    inner = np.clip(np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2]), 0, None).prod(1)
    union = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - inner
    return np.divide(inner, union, out=np.zeros_like(inner), where=union > 0)


@operator("NonMaxSuppression", host="boxes scores most iou_threshold score_threshold")
def non_max_suppression(boxes, scores, most=None, iou_threshold=None, score_threshold=None, *, center_point_box=0):
    """Rows (sample, class, box) of the boxes that no better one of their class covers."""
    limit = 0 if most is None else int(np.ravel(most)[0])
    covered = 0.0 if iou_threshold is None else float(np.ravel(iou_threshold)[0])
    kept: list[tuple[int, int, int]] = []
    for n, (sample, by_class) in enumerate(zip(boxes, scores)):
        corners = _corners(sample, center_point_box)
        for c, score in enumerate(by_class):
            order = np.argsort(-score, kind="stable")
            if score_threshold is not None:
                order = order[score[order] > np.ravel(score_threshold)[0]]
            taken = 0
            while order.size and taken < limit:
                best, order = order[0], order[1:]
                kept.append((n, c, int(best)))
                taken += 1
                order = order[_overlap(corners[best], corners[order]) <= covered]
    return np.array(kept, np.int64).reshape(-1, 3)


def _averaged_grid(low: Any, size: Any, bins: int, each: int) -> np.ndarray:
    """Where ``each`` samples lie in each of ``bins`` bins of an interval."""
    step = size / bins
    return low + (np.arange(bins)[:, None] + (np.arange(each) + 0.5) / each) * step


@operator("RoiAlign", host="rois batch_indices")
def roi_align(
    x, rois, batch_indices, *, coordinate_transformation_mode="half_pixel", mode="avg", output_height=1, output_width=1,
    sampling_ratio=0, spatial_scale=1.0,
):  # fmt: skip
    """Mean (or maximum) of bilinear samples in the bins of each region (He et al. 2017)."""
    return _roi_align(
        x, rois, batch_indices, 0.5 if coordinate_transformation_mode == "half_pixel" else 0.0, mode,
        (output_height, output_width), sampling_ratio, spatial_scale,
    )  # fmt: skip


def _roi_align(x, rois, batch_indices, half, mode, bins, sampling_ratio, spatial_scale):
    outs = []
    height, width = x.shape[2:]
    for roi, n in zip(rois, batch_indices):
        left, top, right, bottom = (float(v) * spatial_scale - half for v in roi)
        w, h = right - left, bottom - top
        if not half:
            w, h = max(w, 1.0), max(h, 1.0)
        rows = sampling_ratio or math.ceil(h / bins[0])
        columns = sampling_ratio or math.ceil(w / bins[1])
        y = _averaged_grid(top, h, bins[0], rows).reshape(-1)
        xs = _averaged_grid(left, w, bins[1], columns).reshape(-1)
        inside = ((y >= -1) & (y <= height))[:, None] & ((xs >= -1) & (xs <= width))
        y, xs = np.clip(y, 0, height - 1), np.clip(xs, 0, width - 1)
        grid_y, grid_x = (g.astype(x.dtype) for g in np.meshgrid(y, xs, indexing="ij"))
        if mode == "max":
            samples = _largest_corner(x[int(n)], grid_y, grid_x)
        else:
            samples = bilinear(x[int(n)], grid_y, grid_x)
        samples = ops.where(inside, samples, 0.0)
        samples = ops.reshape(samples, (x.shape[1], bins[0], rows, bins[1], columns))
        outs.append(ops.amax(samples, axis=(2, 4)) if mode == "max" else ops.mean(samples, axis=(2, 4)))
    return ops.stack(outs) if outs else ops.zeros_like(x[:0, :, : bins[0], : bins[1]])


def _largest_corner(image: Any, y: np.ndarray, x: np.ndarray) -> Any:
    """The largest of the four weighted pixels around each place, as ONNX defines the mode ``max``."""
    h, w = image.shape[-2:]
    best = None
    y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
    for dy in (0, 1):
        for dx in (0, 1):
            share = (1 - np.abs(y - y0 - dy)) * (1 - np.abs(x - x0 - dx))
            pixel = image[:, np.clip(y0 + dy, 0, h - 1), np.clip(x0 + dx, 0, w - 1)] * share.astype(image.dtype)
            best = pixel if best is None else ops.maximum(best, pixel)
    return best


@operator("MaxRoiPool", host="rois")
def max_roi_pool(x, rois, *, pooled_shape, spatial_scale=1.0):
    """The maximum of each bin of each region (Girshick 2015); 0 for an empty bin."""
    outs = []
    for n, *corners in rois:
        left, top, right, bottom = (int(np.floor(float(v) * spatial_scale + 0.5)) for v in corners)
        spans = []
        for first, last, bins, n_pixels in (
            (top, bottom, pooled_shape[0], x.shape[2]), (left, right, pooled_shape[1], x.shape[3]),
        ):  # fmt: skip
            step = max(last - first + 1, 1) / bins
            edges = [(first + math.floor(i * step), first + math.ceil((i + 1) * step)) for i in range(bins)]
            spans.append([(min(max(a, 0), n_pixels), min(max(b, 0), n_pixels)) for a, b in edges])
        image = x[int(n)]
        rows = [
            ops.stack([
                ops.amax(image[:, a:b, c:d], axis=(1, 2)) if b > a and d > c else ops.zeros_like(image[:, 0, 0])
                for c, d in spans[1]
            ], axis=-1)
            for a, b in spans[0]
        ]  # fmt: skip
        outs.append(ops.stack(rows, axis=1))
    return ops.stack(outs)
