"""Models to train, read and compare: image classifiers and character language models."""

from minidl.models.char_lstm import CharLSTM
from minidl.models.cnn import ConvNet
from minidl.models.gpt import GPT, GPTConfig
from minidl.models.lenet import LeNet5
from minidl.models.resnet import ResNet, resnet18, resnet34
