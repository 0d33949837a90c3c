"""The networks of the workloads: plain functions of dicts of arrays, with weights from a fixed seed."""

from benchmarks.networks.resnets import ResNet as ResNet
from benchmarks.networks.resnets import resnet_8 as resnet_8
from benchmarks.networks.resnets import resnet_20 as resnet_20
from benchmarks.networks.resnets import resnet_50 as resnet_50
from benchmarks.networks.small import convolutional as convolutional
from benchmarks.networks.small import convolutional_params as convolutional_params
from benchmarks.networks.small import lenet as lenet
from benchmarks.networks.small import lenet_params as lenet_params
from benchmarks.networks.small import perceptron as perceptron
from benchmarks.networks.small import perceptron_params as perceptron_params
from benchmarks.networks.transformer import Transformer as Transformer
