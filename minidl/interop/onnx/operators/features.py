"""``ai.onnx.ml``: what prepares features for the estimators of :mod:`estimators`."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import ops
from minidl.interop.onnx.registry import operator

ML = "ai.onnx.ml"


@operator("ArrayFeatureExtractor", domain=ML, host="x y")
def array_feature_extractor(x, y):
    return np.take(x, y.reshape(-1), axis=-1)


@operator("Binarizer", domain=ML)
def binarizer(x, *, threshold=0.0):
    return ops.astype(x > threshold, dtype=x.dtype)


@operator("LabelEncoder", domain=ML, host="x")
def label_encoder(
    x, *, default_float=-0.0, default_int64=-1, default_string="_Unused", default_tensor=None, keys_floats=None,
    keys_int64s=None, keys_strings=None, keys_tensor=None, values_floats=None, values_int64s=None, values_strings=None,
    values_tensor=None,
):  # fmt: skip
    def given(*choices: Any) -> Any:
        return next(list(c) for c in choices if c is not None)

    keys = given(keys_floats, keys_int64s, keys_strings, keys_tensor)
    values = given(values_floats, values_int64s, values_strings, values_tensor)
    if values_tensor is not None:
        default, dtype = np.ravel(default_tensor)[0] if default_tensor is not None else 0, values_tensor.dtype
    elif values_strings is not None:
        default, dtype = default_string, np.dtype(object)
    else:
        default, dtype = (
            (default_float, np.dtype("f4")) if values_floats is not None else (default_int64, np.dtype("i8"))
        )
    table = dict(zip(keys, values))
    nan = next((v for k, v in table.items() if isinstance(k, (float, np.floating)) and k != k), default)
    found = [nan if v != v else table.get(v, default) for v in x.reshape(-1).tolist()]
    return np.array(found, dtype).reshape(x.shape)


@operator("Scaler", domain=ML)
def scaler(x, *, offset=(0.0,), scale=(1.0,)):
    x = ops.astype(x, dtype="float32")
    return (x - np.asarray(offset, np.float32)) * np.asarray(scale, np.float32)


@operator("Normalizer", domain=ML)
def normalizer(x, *, norm="MAX"):
    """Each row divided by its norm; a row of zeros stays so."""
    x = ops.astype(x, dtype="float32")
    if norm == "L1":
        size = ops.sum(ops.abs(x), axis=-1, keepdims=True)
    elif norm == "L2":
        size = ops.sqrt(ops.sum(x * x, axis=-1, keepdims=True))
    else:
        size = ops.amax(x, axis=-1, keepdims=True)
    return x / ops.where(size == 0, np.float32(1), size)


@operator("Imputer", domain=ML, host="x")
def imputer(
    x, *, imputed_value_floats=None, imputed_value_int64s=None, replaced_value_float=0.0, replaced_value_int64=0
):
    given, missing = imputed_value_floats, replaced_value_float
    if imputed_value_int64s:
        given, missing = imputed_value_int64s, replaced_value_int64
    found = np.isnan(x) if missing != missing else x == missing
    return np.where(found, np.asarray(given, x.dtype), x)


@operator("OneHotEncoder", domain=ML, host="x")
def one_hot_encoder(x, *, cats_int64s=None, cats_strings=None, zeros=1):
    classes = list(cats_strings if cats_strings is not None else cats_int64s)
    found = np.array([[v == c for c in classes] for v in x.reshape(-1).tolist()], np.float32)
    if not zeros and not found.any(axis=-1).all():
        raise ValueError("OneHotEncoder: a value is no category")
    return found.reshape(*x.shape, len(classes))


@operator("FeatureVectorizer", domain=ML)
def feature_vectorizer(*xs, inputdimensions=()):
    rows = [ops.reshape(ops.astype(x, dtype="float32"), shape=(x.shape[0], -1) if x.ndim > 1 else (1, -1)) for x in xs]
    return ops.concat(*rows, axis=-1)


@operator("CategoryMapper", domain=ML, host="x")
def category_mapper(x, *, cats_int64s=(), cats_strings=(), default_int64=-1, default_string="_Unused"):
    if x.dtype == object:
        table: dict[Any, Any] = dict(zip(cats_strings, cats_int64s))
        return np.array([table.get(v, default_int64) for v in x.reshape(-1)], np.int64).reshape(x.shape)
    table = dict(zip(cats_int64s, cats_strings))
    return np.array([table.get(v, default_string) for v in x.reshape(-1).tolist()], object).reshape(x.shape)


@operator("DictVectorizer", domain=ML)
def dict_vectorizer(x, *, int64_vocabulary=None, string_vocabulary=None):
    """A dict, or a row of them, to one column per key of the vocabulary."""
    rows, keys = ([x] if isinstance(x, dict) else x), string_vocabulary or int64_vocabulary
    values = [[row.get(k, 0) for k in keys] for row in rows]
    return np.array(values, np.float32 if any(isinstance(v, float) for r in values for v in r) else None)


@operator("CastMap", domain=ML)
def cast_map(x, *, cast_to="TO_FLOAT", map_form="DENSE", max_map=1):
    items = sorted(x.items())
    if map_form == "SPARSE":
        full = dict(items)
        items = [(i, full.get(i, 0)) for i in range(max_map)]
    dtype: Any = {"TO_FLOAT": np.float32, "TO_INT64": np.int64, "TO_STRING": object}[cast_to]
    values = [str(v) for _, v in items] if dtype is object else [v for _, v in items]
    return np.array(values, dtype)[None]


@operator("ZipMap", domain=ML, host="x")
def zip_map(x, *, classlabels_int64s=None, classlabels_strings=None):
    """A list of dicts {class: score}, one per row."""
    labels = classlabels_strings if classlabels_strings is not None else classlabels_int64s
    return [dict(zip(labels, row)) for row in np.atleast_2d(x)]
