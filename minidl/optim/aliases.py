"""Second spellings of optimizers. Each is the very class it stands for."""

from minidl.optim.rmsprop import RMSprop

RMSProp = RMSprop
