"""Optimizers, learning-rate schedules, gradient clipping, averages of weights."""

from minidl.optim import lr_scheduler
from minidl.optim.adadelta import Adadelta
from minidl.optim.adagrad import Adagrad
from minidl.optim.adam import Adam, AdamW
from minidl.optim.aliases import RMSProp
from minidl.optim.clip import clip_grad_norm_, clip_grad_value_, get_total_norm
from minidl.optim.ema import ExponentialMovingAverage
from minidl.optim.grad_scaler import GradScaler
from minidl.optim.lamb import LAMB
from minidl.optim.lars import LARS
from minidl.optim.lion import Lion
from minidl.optim.muon import Muon
from minidl.optim.nadam import NAdam
from minidl.optim.optimizer import Optimizer
from minidl.optim.radam import RAdam
from minidl.optim.rmsprop import RMSprop
from minidl.optim.sgd import SGD
from minidl.optim.state import join_arrays, split_arrays
