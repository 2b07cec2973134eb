"""Models to train, read and compare: image classifiers, segmentation, and language models."""

from minidl.models.alexnet import AlexNet, alexnet
from minidl.models.bert import Bert, BertConfig, BertForMaskedLM, BertForSequenceClassification
from minidl.models.char_lstm import CharLSTM
from minidl.models.cnn import ConvNet
from minidl.models.efficientnet import EfficientNetLite0
from minidl.models.gpt import GPT, GPTConfig
from minidl.models.lenet import LeNet5
from minidl.models.llama import Llama, LlamaConfig
from minidl.models.mobilenet import MobileNetV2, MobileNetV3, mobilenet_v2, mobilenet_v3_large, mobilenet_v3_small
from minidl.models.pretrained import UnknownModelError, from_pretrained
from minidl.models.resnet import ResNet, resnet18, resnet34, resnet50, resnet101, resnet152
from minidl.models.sentence import SentenceEncoder
from minidl.models.t5 import T5, T5Config, T5Encoder
from minidl.models.tokenizer import PretrainedTokenizer
from minidl.models.unet import UNet
from minidl.models.vgg import VGG, vgg11, vgg13, vgg16, vgg19
from minidl.models.vit import ViT, ViTConfig, ViTForImageClassification
