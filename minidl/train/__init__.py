"""Training: the Trainer, metrics, callbacks, checkpoints, and Keras' methods for every Module."""

from minidl.train import keras
from minidl.train.callbacks import (
    Callback,
    CSVLogger,
    EarlyStopping,
    JSONLLogger,
    LambdaCallback,
    LearningCurve,
    LRMonitor,
    ModelCheckpoint,
    TensorBoard,
)
from minidl.train.checkpoint import CheckpointError
from minidl.train.evaluation import predict
from minidl.train.finite import NonFiniteLossError
from minidl.train.interrupts import Interrupted
from minidl.train.metrics import (
    F1,
    Accuracy,
    ConfusionMatrix,
    Mean,
    MeanAbsoluteError,
    MeanLoss,
    MeanSquaredError,
    Metric,
    Perplexity,
    Precision,
    Recall,
    TopK,
)
from minidl.train.run_dir import RunFolderError
from minidl.train.trainer import Trainer

__all__ = [
    "F1",
    "Accuracy",
    "CSVLogger",
    "Callback",
    "CheckpointError",
    "ConfusionMatrix",
    "EarlyStopping",
    "Interrupted",
    "JSONLLogger",
    "LRMonitor",
    "LambdaCallback",
    "LearningCurve",
    "Mean",
    "MeanAbsoluteError",
    "MeanLoss",
    "MeanSquaredError",
    "Metric",
    "ModelCheckpoint",
    "NonFiniteLossError",
    "Perplexity",
    "Precision",
    "Recall",
    "RunFolderError",
    "TensorBoard",
    "TopK",
    "Trainer",
    "keras",
    "predict",
]
