"""Strings, n-grams and pictures in files."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np

from minidl.interop.onnx.registry import operator


@operator("StringConcat", host="x y")
def string_concat(x, y):
    return np.asarray(x.astype(object) + y.astype(object), object)


@operator("StringSplit", host="x")
def string_split(x, *, delimiter=None, maxsplit=None):
    """(the parts, filled up with empty strings, their number)."""
    parts = [s.split(delimiter or None, -1 if maxsplit is None else maxsplit) for s in x.reshape(-1)]
    width = max(map(len, parts), default=0)
    out = np.array([p + [""] * (width - len(p)) for p in parts], object).reshape(*x.shape, width)
    return out, np.array([len(p) for p in parts], np.int64).reshape(x.shape)


@operator("RegexFullMatch", host="x")
def regex_full_match(x, *, pattern):
    return np.array([re.fullmatch(pattern, s) is not None for s in x.reshape(-1)], bool).reshape(x.shape)


@operator("StringNormalizer", host="x")
def string_normalizer(x, *, case_change_action="NONE", is_case_sensitive=0, locale=None, stopwords=()):
    change: Any = {"LOWER": str.lower, "UPPER": str.upper, "NONE": str}[case_change_action]
    compared: Any = str if is_case_sensitive else str.lower
    stop = {compared(s) for s in stopwords}
    rows = x.reshape(1, -1) if x.ndim == 1 else x
    kept = [[change(s) for s in row if compared(s) not in stop] or [""] for row in rows]
    out = np.array(kept, object)
    return out[0] if x.ndim == 1 else out


@operator("TfIdfVectorizer", host="x")
def tf_idf_vectorizer(
    x, *, max_gram_length, max_skip_count, min_gram_length, mode, ngram_counts, ngram_indexes, pool_int64s=None,
    pool_strings=None, weights=None,
):  # fmt: skip
    """How often each n-gram of the pool occurs (``TF``), whether (``IDF``), weighted (``TFIDF``)."""
    pool = list(pool_int64s if pool_int64s is not None else pool_strings or ())
    columns: dict[tuple, int] = {}
    ends = [*ngram_counts[1:], len(pool)]
    for size, (start, end) in enumerate(zip(ngram_counts, ends), 1):
        for at in range(start, end, size):
            columns[tuple(pool[at : at + size])] = ngram_indexes[len(columns)]
    counts = np.zeros((len(x) if x.ndim == 2 else 1, max(ngram_indexes) + 1), np.float32)
    for row, tokens in zip(counts, x if x.ndim == 2 else [x]):
        for size in range(min_gram_length, max_gram_length + 1):
            for skip in range(max_skip_count + 1 if size > 1 else 1):
                reach = (size - 1) * (skip + 1)
                for at in range(len(tokens) - reach):
                    column = columns.get(tuple(tokens[at : at + reach + 1 : skip + 1].tolist()))
                    if column is not None:
                        row[column] += 1
    factor = np.ones(counts.shape[1], np.float32)
    if weights is not None:
        for (_, column), weight in zip(columns.items(), weights):
            factor[column] = weight
    out = {"TF": counts, "IDF": (counts > 0) * factor, "TFIDF": counts * factor}[mode].astype(np.float32)
    return out if x.ndim == 2 else out[0]


@operator("ImageDecoder", since=20, host="x")
def image_decoder(x, *, pixel_format="RGB"):
    """The bytes of a picture's file as (H, W, C)."""
    from PIL import Image

    picture = Image.open(io.BytesIO(x.tobytes()))
    if pixel_format == "Grayscale":
        return np.asarray(picture.convert("L"))[..., None]
    colours = np.asarray(picture.convert("RGB"))
    return colours[..., ::-1] if pixel_format == "BGR" else colours
