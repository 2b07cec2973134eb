"""Learning-rate schedules: ``scheduler.step()`` after every epoch (or batch) sets ``lr`` of every parameter group.

Names, arguments and values are PyTorch's. Most schedules are a curve of factors ``f(t)``: if nothing else changes
``lr``, it is ``initial_lr * f(t)`` after ``t`` steps. A step multiplies the current ``lr`` by ``f(t) / f(t - 1)``, so
schedules can be chained, and a change of ``lr`` by hand persists.

>>> from minidl import nn, optim
>>> optimizer = optim.SGD([nn.Parameter([1.0])], lr=0.8)
>>> schedule = optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
>>> for epoch in range(5):
...     print(optimizer.param_groups[0]["lr"], end=" ")
...     optimizer.step()
...     schedule.step()
0.8 0.8 0.4 0.4 0.2
"""

from minidl.optim.lr_scheduler.base import LRScheduler
from minidl.optim.lr_scheduler.combined import ChainedScheduler, SequentialLR
from minidl.optim.lr_scheduler.curves import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    PolynomialLR,
    StepLR,
    WarmupCosineLR,
)
from minidl.optim.lr_scheduler.one_cycle import OneCycleLR
from minidl.optim.lr_scheduler.plateau import ReduceLROnPlateau
