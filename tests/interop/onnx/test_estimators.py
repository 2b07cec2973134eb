"""What scikit-learn's estimators become with skl2onnx, against onnxruntime and scikit-learn itself."""

import warnings

import numpy as np
import pytest

pytest.importorskip("onnx", reason="reading ONNX files needs onnx (pip install 'minidl[onnx]')")
skl2onnx = pytest.importorskip("skl2onnx", reason="skl2onnx makes the files")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is what the outputs are compared with")

from sklearn import (  # noqa: E402  # noqa: E402
    datasets,
    ensemble,
    feature_selection,
    impute,
    linear_model,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    svm,
    tree,
)

import minidl  # noqa: E402
from minidl.interop.onnx import load  # noqa: E402

warnings.filterwarnings("ignore", module="sklearn")

IRIS = datasets.load_iris(return_X_y=True)
TWO = (IRIS[0][:100], IRIS[1][:100])
SUGAR = datasets.load_diabetes(return_X_y=True)
scaled = lambda model: pipeline.make_pipeline(preprocessing.StandardScaler(), model)

CASES = {
    "logistic": (linear_model.LogisticRegression(), IRIS),
    "logistic of two": (linear_model.LogisticRegression(), TWO),
    "scaled logistic": (scaled(linear_model.LogisticRegression()), IRIS),
    "linear": (linear_model.LinearRegression(), SUGAR),
    "ridge of two targets": (linear_model.Ridge(), (SUGAR[0], np.stack([SUGAR[1], -SUGAR[1]], 1))),
    "tree": (tree.DecisionTreeClassifier(max_depth=4), IRIS),
    "tree regressor": (tree.DecisionTreeRegressor(max_depth=5), SUGAR),
    "forest": (ensemble.RandomForestClassifier(n_estimators=20, random_state=0), IRIS),
    "forest of two": (ensemble.RandomForestClassifier(n_estimators=20, random_state=0), TWO),
    "forest regressor": (ensemble.RandomForestRegressor(n_estimators=20, random_state=0), SUGAR),
    "boosting": (ensemble.GradientBoostingClassifier(n_estimators=10), IRIS),
    "boosting of two": (ensemble.GradientBoostingClassifier(n_estimators=10), TWO),
    "boosting regressor": (ensemble.GradientBoostingRegressor(n_estimators=10), SUGAR),
    "svm": (svm.SVC(), IRIS),
    "svm of two": (svm.SVC(), TWO),
    "linear svm": (svm.LinearSVC(), IRIS),
    "polynomial svm": (svm.SVC(kernel="poly"), IRIS),
    "svm regressor": (svm.SVR(), SUGAR),
    "network": (neural_network.MLPClassifier((8,), max_iter=50, random_state=0), IRIS),
    "neighbours": (neighbors.KNeighborsClassifier(3), IRIS),
    "min-max": (pipeline.make_pipeline(preprocessing.MinMaxScaler(), linear_model.LinearRegression()), SUGAR),
    "normalizer": (pipeline.make_pipeline(preprocessing.Normalizer("l1"), linear_model.LinearRegression()), IRIS),
    "imputer": (pipeline.make_pipeline(impute.SimpleImputer(), linear_model.LinearRegression()), SUGAR),
    "selected": (pipeline.make_pipeline(feature_selection.SelectKBest(k=2), linear_model.LogisticRegression()), IRIS),
}


#: (name, are a classifier's scores dicts?)
RUN = [(name, zipmap) for name, (model, _) in CASES.items() for zipmap in {False, hasattr(model, "predict_proba")}]


@pytest.mark.parametrize("name, zipmap", RUN)
def test_equals_onnxruntime(name, zipmap):
    model, (x, y) = CASES[name]
    x = x.astype(np.float32)
    model.fit(x, y)
    options = {} if zipmap or not hasattr(model, "predict_proba") else {"zipmap": False}
    proto = skl2onnx.to_onnx(model, x[:1], options=options or None).SerializeToString()
    expected = runtime.InferenceSession(proto).run(None, {"X": x})
    with minidl.no_grad():
        found = load(proto)(x)
    found = found if isinstance(found, tuple) else (found,)
    assert len(found) == len(expected)
    for f, e in zip(found, expected):
        if isinstance(e, list):
            assert [list(row) for row in f] == [list(row) for row in e]
            f, e = ([list(row.values()) for row in rows] for rows in (f, e))
        f, e = np.asarray(f), np.asarray(e)
        if e.dtype.kind == "f":
            np.testing.assert_allclose(f, e, rtol=1e-4, atol=1e-5)
        else:
            assert (f == e).mean() == 1
