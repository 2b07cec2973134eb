"""``ai.onnx.ml``: linear models, support vectors and trees, as scikit-learn, XGBoost and LightGBM export them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.special

from minidl import ops
from minidl.interop.onnx.operators.features import ML
from minidl.interop.onnx.registry import operator


def _transformed(scores: np.ndarray, how: str) -> np.ndarray:
    """Scores (N, classes) as ``post_transform`` has them."""
    if how == "SOFTMAX":
        return scipy.special.softmax(scores, axis=-1)
    if how == "SOFTMAX_ZERO":  # what is exactly 0 stays so
        e = np.exp(scores - scores.max(axis=-1, keepdims=True)) * (scores != 0)
        return e / np.maximum(e.sum(axis=-1, keepdims=True), np.finfo(np.float32).tiny)
    if how == "LOGISTIC":
        return scipy.special.expit(scores)
    if how == "PROBIT":
        return np.sqrt(2) * scipy.special.erfinv(2 * scores - 1)
    if how == "NONE":
        return scores
    raise ValueError(f"post_transform {how!r}")


def _labels(strings: Any, numbers: Any) -> np.ndarray:
    return np.array(strings, object) if strings else np.array(numbers if numbers else [0, 1], np.int64)


def _classified(scores: np.ndarray, labels: np.ndarray, how: str, counts: bool = False) -> tuple[Any, np.ndarray]:
    """(labels, scores). A single score is that of the second of two classes: a share in [0, 1] where it ``counts``
    (a forest's votes), else one whose sign decides."""
    if scores.shape[1] == 1 and len(labels) == 2:
        if how == "PROBIT":
            raise ValueError("post_transform PROBIT of a single score")
        complement = 1 - scores if counts and how == "NONE" else -scores
        out = _transformed(np.concatenate([complement, scores], axis=1), "LOGISTIC" if how == "LOGISTIC" else how)
        best = (scores[:, 0] > (0.5 if counts and how == "NONE" else 0)).astype(int)
    else:
        out = _transformed(scores, how)
        best = scores.argmax(axis=1)
    return labels[best], out.astype(np.float32)


@operator("LinearRegressor", domain=ML)
def linear_regressor(x, *, coefficients, intercepts=None, post_transform="NONE", targets=1):
    weight = np.asarray(coefficients, np.float32).reshape(targets, -1)
    y = ops.matmul(ops.astype(x, dtype="float32"), weight.T)
    if intercepts:
        y = y + np.asarray(intercepts, np.float32)
    return y if post_transform == "NONE" else _transformed(y.numpy(), post_transform).astype(np.float32)


@operator("LinearClassifier", domain=ML, host="x")
def linear_classifier(
    x, *, coefficients, intercepts=None, classlabels_ints=None, classlabels_strings=None, multi_class=0,
    post_transform="NONE",
):  # fmt: skip
    labels = _labels(classlabels_strings, classlabels_ints)
    weight = np.asarray(coefficients, np.float32).reshape(-1, x.shape[-1])
    scores = x.astype(np.float32) @ weight.T + (np.asarray(intercepts, np.float32) if intercepts else 0)
    return _classified(scores, labels, post_transform)


class _Vectors(NamedTuple):
    """Support vectors (n, features) and what of a kernel function."""

    vectors: np.ndarray
    kind: str
    parameters: list[float]

    def kernel(self, x: np.ndarray) -> np.ndarray:
        """k(x, v) of rows x (N, features) and all support vectors: (N, n)."""
        gamma, constant, degree = [*self.parameters, 0.0, 0.0, 3.0][:3] if self.parameters else (0.0, 0.0, 3.0)
        if self.kind == "RBF":
            apart = ((x[:, None] - self.vectors[None]) ** 2).sum(axis=-1)
            return np.exp(-gamma * apart)
        product = x @ self.vectors.T
        if self.kind == "POLY":
            return (gamma * product + constant) ** degree
        return np.tanh(gamma * product + constant) if self.kind == "SIGMOID" else product


@operator("SVMRegressor", domain=ML, host="x")
def svm_regressor(
    x, *, coefficients, kernel_params=(), kernel_type="LINEAR", n_supports=0, one_class=0, post_transform="NONE",
    rho=(0.0,), support_vectors=(),
):  # fmt: skip
    x = x.astype(np.float32)
    weight = np.asarray(coefficients, np.float32)
    if n_supports:
        vectors = np.asarray(support_vectors, np.float32).reshape(n_supports, -1)
        y = _Vectors(vectors, kernel_type, list(kernel_params)).kernel(x) @ weight + rho[0]
    else:
        y = x @ weight + rho[0]
    y = np.where(y > 0, 1, -1) if one_class else _transformed(y[:, None], post_transform)[:, 0]
    return y.astype(np.float32)[:, None]


@operator("SVMClassifier", domain=ML, host="x")
def svm_classifier(
    x, *, coefficients, classlabels_ints=None, classlabels_strings=None, kernel_params=(), kernel_type="LINEAR",
    post_transform="NONE", prob_a=None, prob_b=None, rho=(0.0,), support_vectors=(), vectors_per_class=None,
):  # fmt: skip
    """One against one, as in LIBSVM (Chang and Lin 2011): each pair of classes decides by its sum over the support
    vectors of both, and the class with most votes wins."""
    if prob_a:
        raise NotImplementedError("SVMClassifier: probabilities (prob_a, prob_b); export without them")
    labels = _labels(classlabels_strings, classlabels_ints)
    x = x.astype(np.float32)
    if not vectors_per_class:  # one against the rest
        weight = np.asarray(coefficients, np.float32).reshape(-1, x.shape[-1])
        return _classified(x @ weight.T + np.asarray(rho, np.float32), labels, post_transform)
    count, classes = sum(vectors_per_class), len(vectors_per_class)
    vectors = np.asarray(support_vectors, np.float32).reshape(count, -1)
    kernel = _Vectors(vectors, kernel_type, list(kernel_params)).kernel(x)
    weight = np.asarray(coefficients, np.float32).reshape(classes - 1, count)
    start = np.cumsum([0, *vectors_per_class])
    own = [slice(start[i], start[i + 1]) for i in range(classes)]
    scores, votes = [], np.zeros((len(x), classes))
    for i in range(classes):
        for j in range(i + 1, classes):
            one = kernel[:, own[i]] @ weight[j - 1, own[i]] + kernel[:, own[j]] @ weight[i, own[j]]
            scores.append(one + rho[len(scores)])
            votes[:, i] += scores[-1] > 0
            votes[:, j] += scores[-1] <= 0
    out = np.stack(scores, axis=1)
    if classes == 2:
        best, out = (out[:, 0] <= 0).astype(int), np.concatenate([-out, out], axis=1)  # as onnxruntime has it
    else:
        best = votes.argmax(axis=1)
    return labels[best], _transformed(out, post_transform).astype(np.float32)


class _Forest(NamedTuple):
    """Trees as arrays, one entry per node; a leaf's entry in ``true`` is itself."""

    roots: np.ndarray
    feature: np.ndarray
    split: np.ndarray
    mode: np.ndarray
    true: np.ndarray
    false: np.ndarray
    missing_true: np.ndarray
    members: dict[int, np.ndarray]
    leaf: np.ndarray  # is it one?

    def leaves(self, x: np.ndarray) -> np.ndarray:
        """The leaf of each tree that each row of x (N, features) arrives at: (N, trees)."""
        at = np.repeat(self.roots[None], len(x), axis=0)
        rows = np.arange(len(x))[:, None]
        for _ in range(len(self.feature)):
            if self.leaf[at].all():
                return at
            value, split, mode = x[rows, self.feature[at]], self.split[at], self.mode[at]
            with np.errstate(invalid="ignore"):
                choices = [value <= split, value < split, value >= split, value > split, value == split, value != split]
            yes = np.select([mode == m for m in _MODES[:6]], choices, False)
            for node, members in self.members.items():
                here = at == node
                yes[here] = np.isin(value[here], members)
            yes |= np.isnan(value) & self.missing_true[at]
            at = np.where(self.leaf[at], at, np.where(yes, self.true[at], self.false[at]))
        raise ValueError("a tree leads back to a node before")


_MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER")


def _aggregated(weights: np.ndarray, present: np.ndarray, how: str) -> np.ndarray:
    """Of weights (N, trees, targets), those that are ``present`` summed, averaged, or the extreme one, over trees."""
    if how in ("SUM", "AVERAGE"):
        total = np.where(present, weights, 0).sum(axis=1)
        return total / weights.shape[1] if how == "AVERAGE" else total
    far = np.inf if how == "MIN" else -np.inf
    best = np.where(present, weights, far)
    best = best.min(axis=1) if how == "MIN" else best.max(axis=1)
    return np.where(present.any(axis=1), best, 0)


def _forest_of(nodes: dict[str, Any]) -> tuple[_Forest, dict[tuple[int, int], int]]:
    """The trees of opsets 1 to 3, and (tree, node) -> entry."""
    keys = list(zip(nodes["treeids"], nodes["nodeids"]))
    where = {key: i for i, key in enumerate(keys)}
    mode = np.array(nodes["modes"])
    leaf = mode == "LEAF"
    values = nodes["values_as_tensor"] if nodes["values_as_tensor"] is not None else nodes["values"]
    missing = nodes["missing_value_tracks_true"]

    def targets(ids: Any) -> np.ndarray:
        return np.array([i if leaf[i] else where[keys[i][0], ids[i]] for i in range(len(keys))])

    firsts: dict[int, int] = {}
    for i, (tree, _) in enumerate(keys):
        firsts.setdefault(tree, i)
    forest = _Forest(
        np.array(list(firsts.values())), np.array(nodes["featureids"]), np.asarray(values, np.float32), mode,
        targets(nodes["truenodeids"]), targets(nodes["falsenodeids"]),
        np.array(missing, bool) if missing else np.zeros(len(keys), bool), {}, leaf,
    )  # fmt: skip
    return forest, where


def _scores(forest: _Forest, x: np.ndarray, entry: Any, target: Any, weight: Any, count: int, how: str) -> np.ndarray:
    """The aggregated weights (N, count): leaf ``entry[k]`` gives ``weight[k]`` to ``target[k]``."""
    table = np.zeros((len(forest.feature), count), np.float32)
    present = np.zeros((len(forest.feature), count), bool)
    np.add.at(table, (entry, target), np.asarray(weight, np.float32))
    present[entry, target] = True
    at = forest.leaves(x)
    return _aggregated(table[at], present[at], how)


@operator("TreeEnsembleRegressor", domain=ML, host="x")
def tree_ensemble_regressor(
    x, *, aggregate_function="SUM", base_values=None, base_values_as_tensor=None, n_targets=1, nodes_falsenodeids,
    nodes_featureids, nodes_hitrates=None, nodes_hitrates_as_tensor=None, nodes_missing_value_tracks_true=None,
    nodes_modes, nodes_nodeids, nodes_treeids, nodes_truenodeids, nodes_values=None, nodes_values_as_tensor=None,
    post_transform="NONE", target_ids, target_nodeids, target_treeids, target_weights=None,
    target_weights_as_tensor=None,
):  # fmt: skip
    given = locals()
    nodes = {name.removeprefix("nodes_"): value for name, value in given.items() if name.startswith("nodes_")}
    forest, where = _forest_of(nodes)
    entry = [where[key] for key in zip(target_treeids, target_nodeids)]
    weight = target_weights_as_tensor if target_weights_as_tensor is not None else target_weights
    y = _scores(forest, x, entry, target_ids, weight, n_targets, aggregate_function)
    base = base_values_as_tensor if base_values_as_tensor is not None else base_values
    if base is not None:
        y = y + np.asarray(base, np.float32)
    return _transformed(y, post_transform).astype(np.float32)


@operator("TreeEnsembleClassifier", domain=ML, host="x")
def tree_ensemble_classifier(
    x, *, base_values=None, base_values_as_tensor=None, class_ids, class_nodeids, class_treeids, class_weights=None,
    class_weights_as_tensor=None, classlabels_int64s=None, classlabels_strings=None, nodes_falsenodeids,
    nodes_featureids, nodes_hitrates=None, nodes_hitrates_as_tensor=None, nodes_missing_value_tracks_true=None,
    nodes_modes, nodes_nodeids, nodes_treeids, nodes_truenodeids, nodes_values=None, nodes_values_as_tensor=None,
    post_transform="NONE",
):  # fmt: skip
    given = locals()
    nodes = {name.removeprefix("nodes_"): value for name, value in given.items() if name.startswith("nodes_")}
    forest, where = _forest_of(nodes)
    labels = _labels(classlabels_strings, classlabels_int64s)
    entry = [where[key] for key in zip(class_treeids, class_nodeids)]
    weight = class_weights_as_tensor if class_weights_as_tensor is not None else class_weights
    single = len(labels) == 2 and len(set(class_ids)) == 1
    target = np.zeros(len(entry), int) if single else class_ids
    scores = _scores(forest, x, entry, target, weight, 1 if single else len(labels), "SUM")
    base = base_values_as_tensor if base_values_as_tensor is not None else base_values
    if base is not None:
        scores = scores + np.asarray(base, np.float32)
    return _classified(scores, labels, post_transform, counts=bool(np.min(weight) >= 0))


@operator("TreeEnsemble", domain=ML, since=5, host="x")
def tree_ensemble(
    x, *, aggregate_function=1, leaf_targetids, leaf_weights, membership_values=None, n_targets=1, nodes_falseleafs,
    nodes_falsenodeids, nodes_featureids, nodes_hitrates=None, nodes_missing_value_tracks_true=None, nodes_modes,
    nodes_splits, nodes_trueleafs, nodes_truenodeids, post_transform=0, tree_roots,
):  # fmt: skip
    """Opset 5: inner nodes come first here, then one entry per leaf."""
    inner, leaves = len(nodes_featureids), len(leaf_targetids)
    where = lambda ids, leaf: np.where(np.array(leaf, bool), inner + np.array(ids), np.array(ids))
    modes = np.array([_MODES[m] for m in np.ravel(nodes_modes)] + ["LEAF"] * leaves)
    members: dict[int, np.ndarray] = {}
    if membership_values is not None:
        ends = np.flatnonzero(np.isnan(membership_values))
        sets = np.split(membership_values, ends + 1)
        for node, values in zip(np.flatnonzero(modes == "BRANCH_MEMBER"), sets):
            members[int(node)] = values[~np.isnan(values)]
    own = inner + np.arange(leaves)
    missing = nodes_missing_value_tracks_true or [0] * inner
    roots = np.array(tree_roots)
    forest = _Forest(
        roots, np.array([*nodes_featureids, *[0] * leaves]), np.concatenate([np.ravel(nodes_splits), np.zeros(leaves)]),
        modes, np.concatenate([where(nodes_truenodeids, nodes_trueleafs), own]),
        np.concatenate([where(nodes_falsenodeids, nodes_falseleafs), own]),
        np.array([*missing, *[0] * leaves], bool), members, modes == "LEAF",
    )  # fmt: skip
    how = ("AVERAGE", "SUM", "MIN", "MAX")[aggregate_function]
    y = _scores(forest, x, own, leaf_targetids, leaf_weights, n_targets, how)
    return _transformed(y, ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")[post_transform]).astype(x.dtype)
